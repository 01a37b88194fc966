"""A checkpoint of any size, shaped like Llama 3 of 8B: valid blocks that repeat, so that it is made at disk speed."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from hearth_export.readers.gguf import open_gguf
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.random_blocks import random_weights
from tests.tiny import byte_letters

HIDDEN, FFN, KV, VOCABULARY = 4096, 14336, 1024, 128256
TILE_ROWS = 512  # of HIDDEN columns

Shapes = list[tuple[str, tuple[int, ...], str]]  # name, rows and columns, block type


def write_large_gguf(path: Path, num_layers: int, float_type: str = "") -> Path:
    """The mix that is called Q4_K_M, some 150 MiB a layer and 700 MiB beside them; or all matrices as floats."""
    tensors = [
        Tensor(f"{name}.weight", shape, kind, np.ones(shape, np.float32) if kind == "F32" and len(shape) == 1 else None)
        for name, shape, kind in _shapes(num_layers, float_type)
    ]
    write_gguf(path, _metadata(num_layers), tensors)
    _fill(path)
    return path


def layers_of(num_bytes: int) -> int:
    """How many layers of the mix make a file of at least `num_bytes`."""
    smallest, larger = (_size(num_layers) for num_layers in (8, 16))
    return max(1, 8 + -(-(num_bytes - smallest) * 8 // (larger - smallest)))


def _size(num_layers: int) -> int:
    return sum(Tensor(*row).nbytes for row in _shapes(num_layers, ""))


def _shapes(num_layers: int, float_type: str) -> Shapes:
    wide, more = float_type or "Q4_K", float_type or "Q6_K"
    shapes: Shapes = [
        ("output_norm", (HIDDEN,), "F32"),
        ("token_embd", (VOCABULARY, HIDDEN), wide),
        ("output", (VOCABULARY, HIDDEN), more),
    ]
    for layer in range(num_layers):
        # llama.cpp's `use_more_bits`: the outer eighths, and every third layer between them
        outer = num_layers // 8
        some = more if layer < outer or layer >= 7 * num_layers // 8 or (layer - outer) % 3 == 2 else wide
        shapes += [
            (f"blk.{layer}.attn_norm", (HIDDEN,), "F32"),
            (f"blk.{layer}.ffn_norm", (HIDDEN,), "F32"),
            (f"blk.{layer}.attn_q", (HIDDEN, HIDDEN), wide),
            (f"blk.{layer}.attn_k", (KV, HIDDEN), wide),
            (f"blk.{layer}.attn_v", (KV, HIDDEN), some),
            (f"blk.{layer}.attn_output", (HIDDEN, HIDDEN), wide),
            (f"blk.{layer}.ffn_gate", (FFN, HIDDEN), wide),
            (f"blk.{layer}.ffn_up", (FFN, HIDDEN), wide),
            (f"blk.{layer}.ffn_down", (HIDDEN, FFN), some),
        ]
    return shapes


def _fill(path: Path) -> None:
    """Writes valid blocks over the holes that the matrices are."""
    tiles: dict[str, bytes] = {}
    with open_gguf(path) as gguf, path.open("r+b") as file:
        for info in gguf.tensors.values():
            if len(info.shape) == 1:
                continue
            tile = tiles.get(info.type) or tiles.setdefault(info.type, _tile(info.type))
            for start in range(0, info.nbytes, len(tile)):
                file.seek(info.offset + start)
                file.write(tile[: info.nbytes - start])


def _tile(block_type: str) -> bytes:
    weights: NDArray[np.generic] = random_weights(block_type, TILE_ROWS, HIDDEN, np.random.default_rng(3))
    if weights.dtype == np.uint8:
        return weights.tobytes()
    return bytes(quants.quantize(np.asarray(weights, np.float32), GGMLQuantizationType[block_type]).tobytes())


def _metadata(num_layers: int) -> dict[str, Meta]:
    letters = byte_letters()
    pairs = ["".join(pair) for pair in product(letters, letters)]
    triples = list(islice(product(pairs, letters), VOCABULARY - 1 - len(letters) - len(pairs)))
    merges = [f"{pair[0]} {pair[1]}" for pair in pairs] + [" ".join(triple) for triple in triples]
    return {
        "general.architecture": "llama",
        "llama.block_count": num_layers,
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
