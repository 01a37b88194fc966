"""The header of a GGUF file, version 3: metadata as stored elsewhere, and tensors placed one after the other.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from hearth_export.readers.values import MetaArray, TensorInfo, Value

VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT64 = 4, 5, 6, 7, 8, 9, 11  # value types
_NARROW = {"int64": np.int32, "uint64": np.int32, "float64": np.float32}  # what llama.cpp reads of lists


@dataclass(frozen=True, slots=True)
class Plan:
    """A file whose every byte has its place."""

    header: bytes  # up to the first tensor, padding included
    tensors: list[TensorInfo]  # offsets count from the start of the file
    num_bytes: int


def uint32(value: int) -> bytes:
    """A value of the metadata, its type id before it."""
    return struct.pack("<II", _UINT32, value)


def encoded_value(value: Value) -> bytes:
    """A value of the metadata, its type id before it: whole numbers as uint32 where they fit, others as float32."""
    if isinstance(value, MetaArray):
        return struct.pack("<I", _ARRAY) + _narrowed(value).raw()
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if 0 <= value < 1 << 32:
        return uint32(value)
    return struct.pack("<Ii", _INT32, value) if -1 << 31 <= value < 0 else struct.pack("<Iq", _INT64, value)


def _narrowed(array: MetaArray) -> MetaArray:
    """Numbers of 64 bits as ones of 32, where they fit."""
    narrow = _NARROW.get(array.element)
    if narrow is None:
        return array
    wide = array.numpy()
    values = wide.astype(narrow)
    fits = narrow is np.float32 or bool((values == wide).all())
    return MetaArray.of(array.key, values) if fits else array


def plan_file(entries: Mapping[str, bytes], tensors: Iterable[TensorInfo], alignment: int) -> Plan:
    """Where everything lies. The values of `entries` begin with their type id; of the tensors name, shape and type
    count. Every tensor's end is padded too, as llama.cpp expects of the last."""
    placed, end = _placed(tensors, alignment)
    parts = [struct.pack("<4sIQQ", b"GGUF", VERSION, len(placed), len(entries))]
    parts += [_string(key) + value for key, value in entries.items()]
    parts += [_tensor_info(tensor) for tensor in placed]
    header = b"".join(parts)
    header += bytes(-len(header) % alignment)
    moved = [msgspec.structs.replace(tensor, offset=len(header) + tensor.offset) for tensor in placed]
    return Plan(header, moved, len(header) + end)


def _placed(tensors: Iterable[TensorInfo], alignment: int) -> tuple[list[TensorInfo], int]:
    """The tensors with offsets from the start of the first, and where the data ends."""
    placed, end = [], 0
    for tensor in tensors:
        num_bytes = tensor.num_rows * tensor.row_bytes
        placed.append(msgspec.structs.replace(tensor, offset=end, nbytes=num_bytes))
        end += num_bytes + -num_bytes % alignment
    return placed, end


def _tensor_info(tensor: TensorInfo) -> bytes:
    dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
    return _string(tensor.name) + dimensions + struct.pack("<IQ", tensor.type_id, tensor.offset)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw
