"""The header of a GGUF file, version 3: metadata as stored elsewhere, and tensors placed one after the other.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from hearth_export.readers.gguf import TensorInfo

VERSION = 3
_UINT32 = 4  # value type


@dataclass(frozen=True, slots=True)
class Plan:
    """A file whose every byte has its place."""

    header: bytes  # up to the first tensor, padding included
    tensors: list[TensorInfo]  # offsets count from the start of the file
    num_bytes: int


def uint32(value: int) -> bytes:
    """A value of the metadata, its type id before it."""
    return struct.pack("<II", _UINT32, value)


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
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
