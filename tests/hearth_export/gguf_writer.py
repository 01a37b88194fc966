"""Writes GGUF files for tests: whole ones from Python values, and the pieces of hostile ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from gguf import quants
from numpy.typing import NDArray

from hearth_export.ggml import BLOCK_TYPES

Meta = (
    str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
    | np.generic | NDArray[np.generic]
)  # fmt: skip

_NUMPY_TYPES = {
    "uint8": 0, "int8": 1, "uint16": 2, "int16": 3, "uint32": 4, "int32": 5, "float32": 6, "bool": 7,
    "uint64": 10, "int64": 11, "float64": 12,
}  # fmt: skip


class Tensor(NamedTuple):
    """`shape` in numpy order. `data` is None for a hole (zero bytes that take no disk), raw block bytes, or float32
    values, which are quantized to `type` by the gguf package."""

    name: str
    shape: tuple[int, ...]
    type: str = "F32"
    data: bytes | NDArray[np.generic] | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * BLOCK_TYPES[self.type].row_bytes(self.shape[-1])

    def raw(self) -> bytes:
        if self.data is None or isinstance(self.data, bytes):
            return self.data or b""
        if self.data.dtype == np.uint8:
            return self.data.tobytes()
        return bytes(np.asarray(quants.quantize(self.data, gguf.GGMLQuantizationType[self.type])).tobytes())


def write_gguf(
    path: Path, metadata: Mapping[str, Meta], tensors: Sequence[Tensor] = (), *, version: int = 3, alignment: int = 32
) -> Path:
    """Write the file and return its path. Python ints become uint32 (int64 where that is too small), floats float32;
    numpy scalars and arrays keep their type."""
    offsets, end = _offsets(tensors, alignment)
    with path.open("wb") as file:
        file.write(header(len(tensors), len(metadata), version))
        file.writelines(key_value(key, value) for key, value in metadata.items())
        for tensor, offset in zip(tensors, offsets, strict=True):
            file.write(tensor_info(tensor.name, tensor.shape, BLOCK_TYPES[tensor.type].type_id, offset))
        start = _align(file.tell(), alignment)
        for tensor, offset in zip(tensors, offsets, strict=True):
            file.seek(start + offset)
            file.write(tensor.raw())
        file.truncate(start + end)
    return path


def _align(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _offsets(tensors: Sequence[Tensor], alignment: int) -> tuple[list[int], int]:
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(_align(end, alignment))
        end = offsets[-1] + tensor.nbytes
    return offsets, end


def header(num_tensors: int, num_keys: int, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, num_tensors, num_keys)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def typed(key: str | bytes, type_id: int, payload: bytes) -> bytes:
    """A metadata entry of any type id, known or not."""
    return string(key) + struct.pack("<I", type_id) + payload


def array(key: str, element_id: int, length: int, payload: bytes) -> bytes:
    """An array entry whose length need not agree with its payload."""
    return typed(key, 9, struct.pack("<IQ", element_id, length) + payload)


def key_value(key: str, value: Meta) -> bytes:
    if isinstance(value, str):
        return typed(key, 8, string(value))
    if isinstance(value, np.generic | np.ndarray):
        return _numpy_value(key, np.asarray(value))
    if isinstance(value, bool | int | float):
        return _numpy_value(key, np.asarray(value, _narrow(value)))
    if len(value) and isinstance(value[0], str):
        return array(key, 8, len(value), b"".join(string(str(item)) for item in value))
    return _numpy_value(key, np.asarray(value, "i4" if len(value) == 0 else _narrow_item(value[0])))


def _narrow(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "?"
    if isinstance(value, float):
        return "f4"
    return "u4" if 0 <= value < 1 << 32 else "i8"


def _narrow_item(value: object) -> str:
    return "?" if isinstance(value, bool) else "i4" if isinstance(value, int) else "f4"


def _numpy_value(key: str, value: NDArray[np.generic]) -> bytes:
    type_id = _NUMPY_TYPES[value.dtype.name]
    if value.ndim == 0:
        return typed(key, type_id, value.tobytes())
    return array(key, type_id, len(value), value.tobytes())


def tensor_info(name: str | bytes, shape: Sequence[int], type_id: int, offset: int) -> bytes:
    """`shape` in numpy order."""
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return string(name) + dimensions + struct.pack("<IQ", type_id, offset)


def write_tiny_llama(path: Path, tokenizer: Mapping[str, Meta], num_tokens: int) -> Path:
    """One decoder layer of width 32 and the given `tokenizer.*` metadata: enough for another engine to load it and
    tokenize with it. The embedding is a hole, so a large vocabulary costs no disk."""
    metadata: dict[str, Meta] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 32,
        "llama.vocab_size": num_tokens,
    }
    ones = np.ones(32, np.float32)
    norms = [Tensor(f"{name}_norm.weight", (32,), "F32", ones) for name in ("output", "blk.0.attn", "blk.0.ffn")]
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    matrices = [Tensor(f"blk.0.{name}.weight", (32, 32), "Q8_0") for name in names]
    embedding = Tensor("token_embd.weight", (num_tokens, 32), "Q8_0")
    return write_gguf(path, {**metadata, **tokenizer}, [embedding, *norms, *matrices])
