"""Writes LoRA adapters for tests, as GGUF files and as PEFT's directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.safetensors_writer import Stored, safetensors

Floats = NDArray[np.float32]
Pair = tuple[Floats, Floats]  # a (rank, columns), b (rows, rank)

MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def random_pair(rows: int, columns: int, rank: int = 4, seed: int = 3) -> Pair:
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((rank, columns), np.float32) / np.float32(columns**0.5)
    return a, generator.standard_normal((rows, rank), np.float32) / np.float32(2)


def write_gguf_adapter(
    path: Path, pairs: Mapping[str, Pair], *, alpha: float = 8.0, extra: Mapping[str, Meta] | None = None,
    more: tuple[Tensor, ...] = (),
) -> Path:  # fmt: skip
    """`pairs` by the names of the tensors that they change."""
    metadata: dict[str, Meta] = {
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
        "adapter.lora.alpha": alpha, **(extra or {}),
    }  # fmt: skip
    tensors = [Tensor(f"{name}.lora_{half}", pair[i].shape, "F32", pair[i])
               for name, pair in pairs.items() for i, half in enumerate("ab")]  # fmt: skip
    return write_gguf(path, metadata, [*tensors, *more])


def write_peft_adapter(directory: Path, pairs: Mapping[str, Pair], **config: Any) -> Path:
    """`pairs` by the names that GGUF has for the tensors; rows of q and k in Hugging Face's order."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, pair in pairs.items():
        for i, half in enumerate("AB"):
            tensors[f"{peft_name(name)}.lora_{half}.weight"] = pair[i]
    return write_peft_files(directory, tensors, **config)


def write_peft_files(directory: Path, tensors: Mapping[str, NDArray[np.generic]], **config: Any) -> Path:
    """The two files of an adapter, whatever its tensors are called."""
    directory.mkdir(parents=True, exist_ok=True)
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **config}
    (directory / "adapter_config.json").write_text(json.dumps(about))
    dtypes = {"float32": "F32", "int64": "I64"}
    stored = {name: Stored(values, dtypes[values.dtype.name]) for name, values in tensors.items()}
    (directory / "adapter_model.safetensors").write_bytes(safetensors(stored))
    return directory


def peft_name(name: str) -> str:
    if name == "output.weight":
        return "base_model.model.lm_head"
    _, layer, tensor, _ = name.split(".")
    return f"base_model.model.model.layers.{layer}.{MODULES[tensor]}"
