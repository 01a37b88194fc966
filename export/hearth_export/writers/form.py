"""A checkpoint as llama.cpp's conversion would have written it, whatever it was read from.

A GGUF file is that already. Of a Hugging Face checkpoint the vocabulary joins the metadata, vectors and small matrices
become F32, and rows of q and k change places where llama.cpp turns neighbouring pairs of a head: `LlamaModel.permute`
of its conversion/llama.py, and the list `llama_model_rope_type` of its src/llama-model.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hearth_export.checkpoint import Checkpoint, T, open_checkpoint
from hearth_export.errors import UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, Bytes, float_rows
from hearth_export.mix import is_kept
from hearth_export.readers.gguf import GGUF
from hearth_export.readers.split import SplitGGUF
from hearth_export.readers.values import MetaArray, TensorInfo, Value, typed_value
from hearth_export.writers.gguf import encoded_value

INTERLEAVED = frozenset(
    {"llama", "granite", "granitemoe", "smollm3"}
)  # whose q and k rows alternate between the halves of a head
POSITIONS = "position_embd.weight"
_TURNED = re.compile(r"blk\.(\d{1,4})\.attn_([qk])\.(?:weight|bias)")


class Form(Protocol):
    """What is written to a GGUF file: its metadata as stored there, and rows of tensors as they are read."""

    @property
    def path(self) -> Path: ...

    @property
    def metadata(self) -> Mapping[str, Value]: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value; None where the key is absent, BadCheckpoint where it has another type."""

    def require(self, key: str, kind: type[T]) -> T:
        """As `get`, but BadCheckpoint where the key is absent."""

    def raw_value(self, key: str) -> bytes:
        """The bytes of a key's value as a file holds them, its type id before it."""

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows start..stop, (stop - start, row_bytes) uint8."""

    def release_all(self) -> None:
        """Tells that what was read is not needed any more."""


@contextmanager
def open_form(source: Path) -> Iterator[Form]:
    """The checkpoint at `source`, a file or a directory, in llama.cpp's form.

    Raises as open_checkpoint does, and UnsupportedModel for a vocabulary that GGUF cannot say.
    """
    with open_checkpoint(source) as checkpoint:
        yield checkpoint if isinstance(checkpoint, GGUF | SplitGGUF) else Converted(checkpoint)


class Converted:
    """A checkpoint of another format in llama.cpp's form."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.path
        self._checkpoint = checkpoint
        self.tensors = MappingProxyType({name: self._converted(info) for name, info in checkpoint.tensors.items()})
        self.metadata: Mapping[str, Value] = MappingProxyType({**checkpoint.metadata, **self._vocabulary()})

    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        return typed_value(self.path, self.metadata, key, kind, default)

    def require(self, key: str, kind: type[T]) -> T:
        value = self.get(key, kind)
        return self._checkpoint.require(key, kind) if value is None else value

    def raw_value(self, key: str) -> bytes:
        return encoded_value(self.metadata[key])

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        stored, wanted = self._checkpoint.tensor(name).type, self.tensors[name].type
        raw = self._ordered(name, start, stop)
        return raw if stored == wanted else np.ascontiguousarray(float_rows(raw, stored)).view(np.uint8)

    def release_all(self) -> None:
        self._checkpoint.release_all()

    def _converted(self, info: TensorInfo) -> TensorInfo:
        """llama.cpp multiplies by vectors and small matrices in float32 only, and wants a learned position a token."""
        if info.name == POSITIONS:
            context = self._checkpoint.get(f"{self._checkpoint.metadata['general.architecture']}.context_length", int)
            info = msgspec.structs.replace(info, shape=(min(info.shape[0], context or info.shape[0]), info.shape[1]))
        is_matrix = len(info.shape) > 1 and info.name.endswith(".weight") and not is_kept(info.name)
        if info.type in FLOAT_TYPES and not is_matrix:
            info = msgspec.structs.replace(info, type="F32", type_id=BLOCK_TYPES["F32"].type_id)
        return msgspec.structs.replace(info, nbytes=info.num_rows * info.row_bytes)

    def _ordered(self, name: str, start: int, stop: int) -> Bytes:
        num_heads = num_turned_heads(name, self.metadata)
        if not num_heads:
            return self._checkpoint.rows(name, start, stop)
        info = self.tensors[name]
        if len(info.shape) == 1:  # a bias: one row, whose values change places
            values = self._checkpoint.rows(name, start, stop)
            order = interleaved(0, info.shape[0], info.shape[0] // num_heads)
            return values.reshape(stop - start, info.shape[0], -1)[:, order].reshape(values.shape)
        head_dim = info.shape[0] // num_heads
        first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim
        rows: Bytes = self._checkpoint.rows(name, first, last)[interleaved(start, stop, head_dim) - first]
        return rows

    def _vocabulary(self) -> dict[str, Value]:
        from hearth_export.gguf_vocabulary import gguf_vocabulary

        values = dict(gguf_vocabulary(self._checkpoint))
        tokens, embedding = values.get("tokenizer.ggml.tokens"), self.tensors.get("token_embd.weight")
        if isinstance(tokens, MetaArray) and embedding is not None and len(tokens) < embedding.shape[0]:
            values |= _padded(values, len(tokens), embedding.shape[0])
        return values


def num_turned_heads(name: str, metadata: Mapping[str, Value]) -> int:
    """How many heads the tensor's rows make, where llama.cpp has them interleaved; 0 where it does not."""
    found, architecture = _TURNED.fullmatch(name), metadata.get("general.architecture")
    if found is None or architecture not in INTERLEAVED:
        return 0
    heads = metadata.get(f"{architecture}.attention.head_count")
    if found[2] == "k":
        heads = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    if not isinstance(heads, int) or heads < 1:
        raise UnsupportedModel(f"{architecture}.attention.head_count differs between layers, which cannot be written")
    return heads


def interleaved(start: int, stop: int, head_dim: int) -> NDArray[np.intp]:
    """Which row in the order of halves becomes each of rows start..stop in that of pairs."""
    row = np.arange(start, stop)
    inside = row % head_dim
    return row - inside + inside % 2 * (head_dim // 2) + inside // 2


def _padded(values: Mapping[str, Value], num_tokens: int, num_rows: int) -> dict[str, Value]:
    """As many tokens as the embedding has rows: llama.cpp takes one for the other."""
    fills: dict[str, object] = {"tokens": None, "token_type": 5, "scores": 0.0}  # 5: unused, `llama_token_type`
    padded: dict[str, Value] = {}
    for name, fill in fills.items():
        key = f"tokenizer.ggml.{name}"
        value = values.get(key)
        if not isinstance(value, MetaArray):
            continue
        if fill is None:
            padded[key] = MetaArray.of(key, [*value.strings(), *(f"[PAD{i}]" for i in range(num_tokens, num_rows))])
        else:
            numbers = value.numpy()
            padded[key] = MetaArray.of(key, np.append(numbers, np.full(num_rows - num_tokens, fill, numbers.dtype)))
    return padded
