"""A tiny llama checkpoint with random weights and a byte-level vocabulary: real in everything but sense.

Rows of control tokens and of bytes beyond ASCII are zero in the tied embedding, so greedy output is ASCII text that
does not end by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.random_blocks import QUANTIZABLE, random_weights

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "i n", "a n", "Ġ a", "e r")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT_LENGTH = 65536


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in GPT-2's vocabulary."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in visible}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}
    return [letters[byte] for byte in range(256)]


def tokens() -> list[str]:
    """The vocabulary: control tokens, bytes, merges."""
    return [*CONTROL_TOKENS, *byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]


def write_tiny_gguf(
    path: Path,
    *,
    num_layers: int = 2,
    hidden_size: int = 64,
    ffn_size: int = 128,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    matrix_type: str = "Q4_1",
    embedding_type: str = "Q8_0",
    untied_type: str | None = None,
    types: Mapping[str, str] = MappingProxyType({}),
    biases: bool = False,
    extra: dict[str, Meta] | None = None,
    extra_tensors: tuple[Tensor, ...] = (),
    seed: int = 7,
) -> Path:
    """Writes the checkpoint and returns its path. `untied_type` adds a head of its own, of that block type.

    `types` has the block types of some matrices ("attn_v", "ffn_down"); all others are of `matrix_type`. `biases` gives
    q, k and v one each.
    """
    generator = np.random.default_rng(seed)
    kv_size = hidden_size // num_heads * num_kv_heads
    vocabulary = tokens()

    def matrix(name: str, rows: int, columns: int, block_type: str = matrix_type) -> Tensor:
        block_type = types.get(name.rpartition(".")[2], block_type)
        return Tensor(
            f"{name}.weight", (rows, columns), block_type, random_weights(block_type, rows, columns, generator)
        )

    def norm(name: str) -> Tensor:
        return Tensor(f"{name}.weight", (hidden_size,), "F32", 1 + generator.random(hidden_size, np.float32))

    def bias(name: str, rows: int) -> Tensor:
        return Tensor(f"{name}.bias", (rows,), "F32", generator.standard_normal(rows, np.float32))

    embedding = generator.standard_normal((len(vocabulary), hidden_size), np.float32)
    embedding[: len(CONTROL_TOKENS)] = 0
    embedding[len(CONTROL_TOKENS) + 128 : len(CONTROL_TOKENS) + 256] = 0
    embedded: NDArray[np.generic] = embedding
    if embedding_type not in QUANTIZABLE:
        embedded = random_weights(embedding_type, len(vocabulary), hidden_size, generator)
    tensors = [Tensor("token_embd.weight", embedding.shape, embedding_type, embedded), norm("output_norm")]
    if untied_type:
        tensors.append(matrix("output", len(vocabulary), hidden_size, untied_type))
    for layer in range(num_layers):
        prefix = f"blk.{layer}"
        tensors += [norm(f"{prefix}.attn_norm"), norm(f"{prefix}.ffn_norm")]
        tensors += [
            matrix(f"{prefix}.attn_q", hidden_size, hidden_size),
            matrix(f"{prefix}.attn_k", kv_size, hidden_size),
            matrix(f"{prefix}.attn_v", kv_size, hidden_size),
            matrix(f"{prefix}.attn_output", hidden_size, hidden_size),
            matrix(f"{prefix}.ffn_gate", ffn_size, hidden_size),
            matrix(f"{prefix}.ffn_up", ffn_size, hidden_size),
            matrix(f"{prefix}.ffn_down", hidden_size, ffn_size),
        ]
        if biases:
            sizes = {"q": hidden_size, "k": kv_size, "v": kv_size}
            tensors += [bias(f"{prefix}.attn_{kind}", size) for kind, size in sizes.items()]
    metadata: dict[str, Meta] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": num_layers,
        "llama.context_length": CONTEXT_LENGTH,
        "llama.embedding_length": hidden_size,
        "llama.feed_forward_length": ffn_size,
        "llama.attention.head_count": num_heads,
        "llama.attention.head_count_kv": num_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": hidden_size // num_heads,
        "llama.vocab_size": len(vocabulary),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": np.array([3] * 3 + [1] * (len(vocabulary) - 3), np.int32),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT_TEMPLATE,
        **(extra or {}),
    }
    return write_gguf(path, metadata, [*tensors, *extra_tensors])
