"""What a decoder is, whatever its checkpoint called it: the facts that the graph builder needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hearth_export.errors import UnsupportedModel
from hearth_export.ggml import Bytes

if TYPE_CHECKING:
    from hearth_export.readers.gguf import GGUF, TensorInfo

# general.architecture -> where its ModelSpec is read
ARCHITECTURES = {"llama": "hearth_export.arch.llama:read_spec"}


class Tensors(Protocol):
    """A checkpoint's tensors under their GGUF names, read by rows."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows start..stop as stored: (stop - start, row_bytes) uint8, valid until release."""

    def release(self, name: str) -> None:
        """Tells that what was read of `name` is not needed any more."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding with all scaling applied: angle = position * inv_freq."""

    inv_freq: tuple[float, ...]  # (head_dim / 2,)
    attention_scale: float = 1.0  # multiplies cos and sin
    rows_interleaved: bool = False  # q and k rows alternate between the halves, as llama.cpp stores llama


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One normalised decoder. Tensors are named as in GGUF: blk.{l}.attn_q.weight and so on."""

    architecture: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    rope: Rope
    tied_head: bool
    read_tensors: frozenset[str] = frozenset()  # tensors that went into this spec

    @property
    def attention_size(self) -> int:
        """Width of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads."""
        return self.num_kv_heads * self.head_dim


def read_spec(gguf: GGUF) -> ModelSpec:
    """The ModelSpec of a checkpoint. UnsupportedModel names an architecture without a file of its own."""
    architecture = gguf.require("general.architecture", str)
    target = ARCHITECTURES.get(architecture)
    if target is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModel(
            f"{gguf.path}: general.architecture is '{architecture}', which cannot be converted (known: {known})"
        )
    module, function = target.split(":")
    spec: ModelSpec = getattr(importlib.import_module(module), function)(gguf)
    return spec
