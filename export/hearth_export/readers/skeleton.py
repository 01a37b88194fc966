"""An ONNX graph without its weights, whatever their size.

The file is mapped, and what is not wanted is stepped over: fields as onnx.proto and the wire format of protocol buffers
(https://protobuf.dev/programming-guides/encoding/) lay them out.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hearth_export.errors import BadCheckpoint

GRAPH, INITIALIZER, VALUE_INFO = 7, 5, 13  # fields of ModelProto and GraphProto
KEPT_OF_TENSOR = (1, 2, 8, 13, 14)  # dims, data_type, name, external_data, data_location
SMALL_BYTES = 4096  # of a tensor that is kept whole
MAX_BYTES = 64 << 20  # of what remains

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    number: int
    start: int  # of its tag
    content: int  # of its value, behind the length where there is one
    stop: int


def read_skeleton(path: Path) -> onnx.ModelProto:
    """The model, of whose large initializers only name, type, shape and place are left.

    Raises BadCheckpoint where the file is no ONNX model, or has more beside its initializers than a graph can have.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return onnx.ModelProto.FromString(bytes(_model(data)))
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, DecodeError) as error:
        raise BadCheckpoint(f"{path}: is no ONNX model, or was cut off: {error}") from error


def _model(data: mmap.mmap) -> bytearray:
    kept = bytearray()
    for field in _fields(data, 0, len(data)):
        if field.number == GRAPH:
            graph = _graph(data, field)
            kept += _tag(GRAPH) + _varint(len(graph)) + graph
        else:
            _keep(kept, data, field)
    return kept


def _graph(data: mmap.mmap, graph: _Field) -> bytearray:
    kept = bytearray()
    for field in _fields(data, graph.content, graph.stop):
        if field.number == INITIALIZER and field.stop - field.content > SMALL_BYTES:
            tensor = bytearray()
            for part in _fields(data, field.content, field.stop):
                if part.number in KEPT_OF_TENSOR:
                    _keep(tensor, data, part)
            kept += _tag(INITIALIZER) + _varint(len(tensor)) + tensor
        elif field.number != VALUE_INFO:
            _keep(kept, data, field)
    return kept


def _keep(kept: bytearray, data: mmap.mmap, field: _Field) -> None:
    if len(kept) + field.stop - field.start > MAX_BYTES:
        raise ValueError(f"there are more than {MAX_BYTES >> 20} MiB beside the initializers")
    kept += data[field.start : field.stop]


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[_Field]:
    """Those of a message that lies at start..stop. ValueError where they do not fill it."""
    at = start
    while at < stop:
        tag, content = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, end = _read_varint(data, content)
        elif kind == _LENGTH:
            length, content = _read_varint(data, content)
            end = content + length
        elif kind in (_FIXED64, _FIXED32):
            end = content + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"a field of the kind {kind} at byte {at}")
        if end > stop:
            raise ValueError(f"field {number} at byte {at} ends beyond its message")
        yield _Field(number, at, content, end)
        at = end


def _read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _LENGTH)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
