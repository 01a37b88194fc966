"""A conversion takes the same memory whatever the model's size."""

from __future__ import annotations

import shutil
import time
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

from hearth_export.ggml import BLOCK_TYPES
from hearth_export.readers.gguf import open_gguf
from tests.hearth_export.converted import DIGEST, info_of
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.peak import Ended, run
from tests.hearth_export.random_blocks import random_weights
from tests.tiny import byte_letters

MAX_PEAK_BYTES = 250 << 20
HIDDEN, FFN, KV, LAYERS, VOCABULARY = 4096, 14336, 1024, 24, 128256  # a Llama 3 of 8B with a quarter less layers
DISK_BYTES = 12 << 30


@pytest.mark.slow
def test_model_of_over_three_gib_converts_within_the_memory_of_a_small_one(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < DISK_BYTES:
        pytest.skip(f"needs {DISK_BYTES >> 30} GiB of free disk under {tmp_path}")
    source, root = write_large_gguf(tmp_path / "large.gguf"), tmp_path / "variants"
    try:
        assert source.stat().st_size > 3 << 30
        start_s = time.monotonic()
        done = conversion(source, root)
        print(
            f"{source.stat().st_size >> 20} MiB: {time.monotonic() - start_s:.1f} s, peak {done.peak_bytes >> 20} MiB"
        )
        assert done.peak_bytes <= MAX_PEAK_BYTES
        assert info_of(root / "cpu-int4").weight_bytes > 3 << 30
    finally:
        source.unlink()
        shutil.rmtree(root, ignore_errors=True)


def test_real_model_converts_within_the_memory_of_a_small_board(smollm2_gguf: Path, tmp_path: Path) -> None:
    assert conversion(smollm2_gguf, tmp_path).peak_bytes <= MAX_PEAK_BYTES


def conversion(source: Path, root: Path) -> Ended:
    done = run("convert", str(source), "--digest", DIGEST, "--out", str(root))
    assert done.returncode == 0, done
    return done


def write_large_gguf(path: Path) -> Path:
    """Matrices of Q4_K and Q6_K, as in Q4_K_M files, whose blocks repeat."""
    tensors = [
        norm("output_norm"),
        matrix("token_embd", VOCABULARY, HIDDEN),
        matrix("output", VOCABULARY, HIDDEN, "Q6_K"),
    ]
    for layer in range(LAYERS):
        tensors += [norm(f"blk.{layer}.attn_norm"), norm(f"blk.{layer}.ffn_norm")]
        for name, rows, columns in (
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", KV, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", FFN, HIDDEN),
            ("ffn_up", FFN, HIDDEN),
        ):
            tensors.append(matrix(f"blk.{layer}.{name}", rows, columns))
        tensors.append(matrix(f"blk.{layer}.attn_v", KV, HIDDEN, "Q6_K"))
        tensors.append(matrix(f"blk.{layer}.ffn_down", HIDDEN, FFN, "Q6_K"))
    write_gguf(path, metadata(), tensors)
    fill(path)
    return path


def norm(name: str) -> Tensor:
    return Tensor(f"{name}.weight", (HIDDEN,), "F32", np.ones(HIDDEN, np.float32))


def matrix(name: str, rows: int, columns: int, block_type: str = "Q4_K") -> Tensor:
    return Tensor(f"{name}.weight", (rows, columns), block_type)


def fill(path: Path) -> None:
    """Writes valid blocks over the holes that the matrices are."""
    generator = np.random.default_rng(3)
    pieces = {kind: random_weights(kind, 64, HIDDEN, generator).tobytes() for kind in ("Q4_K", "Q6_K")}
    with open_gguf(path) as gguf, path.open("r+b") as file:
        for info in gguf.tensors.values():
            piece = pieces.get(info.type, b"")
            assert len(piece) % BLOCK_TYPES[info.type].num_bytes == 0
            for start in range(0, info.nbytes if piece else 0, len(piece) or 1):
                file.seek(info.offset + start)
                file.write(piece[: info.nbytes - start])


def metadata() -> dict[str, Meta]:
    letters = byte_letters()
    pairs = ["".join(pair) for pair in product(letters, letters)]
    triples = list(islice(product(pairs, letters), VOCABULARY - 1 - len(letters) - len(pairs)))
    merges = [f"{pair[0]} {pair[1]}" for pair in pairs] + [" ".join(triple) for triple in triples]
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 8192,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["<|end_of_text|>", *letters, *pairs, *("".join(triple) for triple in triples)],
        "tokenizer.ggml.token_type": np.array([3] + [1] * (VOCABULARY - 1), np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 0,
    }
