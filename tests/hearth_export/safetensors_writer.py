"""Writes safetensors files and Hugging Face directories for tests, sound and hostile ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BITS = {"F32": 32, "F16": 16, "BF16": 16, "U8": 8, "I8": 8, "I64": 64, "F64": 64, "F8_E4M3": 8}


class Stored(NamedTuple):
    """`values` are float32, rounded to `dtype`; bytes are taken as they are."""

    values: NDArray[Any]
    dtype: str = "F32"

    def raw(self) -> bytes:
        if self.dtype == "BF16":
            bits = np.ascontiguousarray(self.values, np.float32).view(np.uint32)
            return (bits >> np.uint32(16)).astype("<u2").tobytes()
        kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8"}
        return self.values.astype(kinds.get(self.dtype, "u1")).tobytes()


Tensors = Mapping[str, Stored]


def safetensors(tensors: Tensors, changes: Mapping[str, Any] | None = None, metadata: bool = True) -> bytes:
    """The file's bytes; `changes` replaces entries of the header, or removes those that are None."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if metadata else {}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.raw()
        assert len(raw) == math.prod(tensor.values.shape) * BITS[tensor.dtype] // 8
        span = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.values.shape), "data_offsets": span}
        data += raw
    header |= changes or {}
    encoded = json.dumps({key: value for key, value in header.items() if value is not None}).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


def write_repository(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    shards: int = 1,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """A directory with config.json, the tensors in one file or several with an index, and other files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    for name, data in (files or {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors(tensors))
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        (directory / name).write_bytes(safetensors(part))
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 40,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def llama_tensors(dtype: str = "F32", seed: int = 3, config: Mapping[str, Any] = LLAMA) -> dict[str, Stored]:
    """Random weights of a tiny llama."""
    generator = np.random.default_rng(seed)
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> Stored:
        return Stored(generator.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5), dtype)

    def norm() -> Stored:
        return Stored(1 + generator.random(hidden, np.float32), dtype)

    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        place = f"model.layers.{layer}"
        tensors |= {f"{place}.{name}.weight": norm() for name in ("input_layernorm", "post_attention_layernorm")}
        for name, rows, columns in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ):
            tensors[f"{place}.{name}.weight"] = matrix(rows, columns)
    return tensors | {"model.norm.weight": norm(), "lm_head.weight": matrix(vocab, hidden)}
