"""What a checkpoint says of itself, in GGUF's terms: values of metadata, and where a tensor lies."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import BadCheckpoint
from hearth_export.ggml import BLOCK_TYPES

SPARE = 64  # how much of a hostile string an error quotes

# value types of the format: id -> (name, struct code, numpy type)
SCALARS: dict[int, tuple[str, str, str]] = {
    0: ("uint8", "<B", "<u1"),
    1: ("int8", "<b", "<i1"),
    2: ("uint16", "<H", "<u2"),
    3: ("int16", "<h", "<i2"),
    4: ("uint32", "<I", "<u4"),
    5: ("int32", "<i", "<i4"),
    6: ("float32", "<f", "<f4"),
    7: ("bool", "<B", "|b1"),
    10: ("uint64", "<Q", "<u8"),
    11: ("int64", "<q", "<i8"),
    12: ("float64", "<d", "<f8"),
}
STRING, ARRAY = 8, 9
CODES = {type_id: struct.Struct(code) for type_id, (_, code, _) in SCALARS.items()}
U32, U64 = CODES[4], CODES[10]


class MetaArray:
    """An array of the metadata, still in the file: nothing is decoded until asked. Valid while the file is open.

    `MetaArray.of` makes one of values that come from elsewhere.
    """

    __slots__ = ("_length", "_mapping", "_offset", "_type_id", "key")

    def __init__(self, key: str, mapping: mmap.mmap | bytes, type_id: int, offset: int, length: int) -> None:
        self.key = key
        self._mapping = mapping
        self._type_id = type_id
        self._offset = offset
        self._length = length

    @classmethod
    def of(cls, key: str, values: Iterable[str] | NDArray[np.generic]) -> MetaArray:
        """An array of strings, or of numbers or bools of a type that the format has."""
        if isinstance(values, np.ndarray):
            kind = values.dtype.newbyteorder("<")
            type_id = next(id for id, (_, _, name) in SCALARS.items() if np.dtype(name) == kind)
            return cls(key, values.astype(kind).tobytes(), type_id, 0, values.size)
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        data = b"".join(part for raw in encoded for part in (U64.pack(len(raw)), raw))
        return cls(key, data, STRING, 0, len(encoded))

    def __len__(self) -> int:
        return self._length

    def raw(self) -> bytes:
        """The array as the format stores it: element type, length, elements."""
        return U32.pack(self._type_id) + U64.pack(self._length) + self._mapping[self._offset : self._end()]

    @property
    def element(self) -> str:
        """Element type as the format calls it: "string", "float32", "bool" ..."""
        return "string" if self._type_id == STRING else SCALARS[self._type_id][0]

    def __iter__(self) -> Iterator[str | int | float | bool]:
        return self.strings() if self._type_id == STRING else iter(self.numpy().tolist())

    def tolist(self) -> list[str | int | float | bool]:
        return list(self)

    def strings(self) -> Iterator[str]:
        """One by one; bytes that are not UTF-8 come as lone surrogates. TypeError for another element type."""
        if self._type_id != STRING:
            raise TypeError(f"{self.key} holds {self.element}, not strings")
        at = self._offset
        for _ in range(self._length):
            (size,) = U64.unpack_from(self._mapping, at)
            yield self._mapping[at + 8 : at + 8 + size].decode("utf-8", "surrogateescape")
            at += 8 + size

    def _end(self) -> int:
        if self._type_id != STRING:
            return self._offset + self._length * CODES[self._type_id].size
        at = self._offset
        for _ in range(self._length):
            at += 8 + U64.unpack_from(self._mapping, at)[0]
        return at

    def numpy(self) -> NDArray[np.generic]:
        """A copy, (len,) of the element type. TypeError for strings."""
        if self._type_id == STRING:
            raise TypeError(f"{self.key} holds strings, not numbers")
        kind = np.dtype(SCALARS[self._type_id][2])
        return np.frombuffer(self._mapping, kind, self._length, self._offset).copy()


Value = str | int | float | bool | MetaArray
T = TypeVar("T", str, int, float, bool, MetaArray)


class TensorInfo(msgspec.Struct, frozen=True):
    """Where a tensor lies. `shape` is in numpy order: the file's [576, 49152] is (49152, 576)."""

    name: str
    shape: tuple[int, ...]
    type: str  # a key of BLOCK_TYPES
    type_id: int
    offset: int  # from the start of the file, bytes
    nbytes: int

    @property
    def num_rows(self) -> int:
        """Rows over all leading dimensions; 1 for a vector."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return BLOCK_TYPES[self.type].row_bytes(self.shape[-1])


def typed_value(path: Path, metadata: Mapping[str, Value], key: str, kind: type[T], default: T | None) -> T | None:
    """The value, or `default` where the key is absent. A float may be stored as an integer.

    Raises BadCheckpoint naming path, key and value where it has another type.
    """
    value = metadata.get(key)
    if value is None:
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise BadCheckpoint(f"{path}: {key} is {described(value)} where {_kind_name(kind)} is expected")
    return value


def described(value: Value) -> str:
    if isinstance(value, MetaArray):
        return f"an array of {len(value)} {value.element}"
    return f"{str(value)[:SPARE]!r} ({type(value).__name__})"


def _kind_name(kind: type) -> str:
    return "an array" if kind is MetaArray else f"a value of type {kind.__name__}"
