"""GGUF, versions 2 and 3, little endian: bytes -> (metadata, tensors that are read lazily through the mapping).

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count is checked against the bytes that are
left before anything of that size is built, so a hostile header costs no more time or memory than its own length. A file
must not be truncated by somebody else while it is open: the kernel answers a read past its new end with SIGBUS.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypeVar, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, BLOCK_TYPES_BY_ID

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_NAME_BYTES = 1 << 16  # the format's own limit for keys
MAX_STRINGS = 1 << 23  # of one array; the largest vocabularies have 2**18 tokens
MAX_TEXT_BYTES = 1 << 26  # of all scalar strings together
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
SPARE = 64  # how much of a hostile string an error quotes

# value types of the format: id -> (name, struct code, numpy type)
_SCALARS: dict[int, tuple[str, str, str]] = {
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
_STRING, _ARRAY = 8, 9
_CODES = {type_id: struct.Struct(code) for type_id, (_, code, _) in _SCALARS.items()}
_U32, _U64 = _CODES[4], _CODES[10]


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
            type_id = next(id for id, (_, _, name) in _SCALARS.items() if np.dtype(name) == kind)
            return cls(key, values.astype(kind).tobytes(), type_id, 0, values.size)
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        data = b"".join(part for raw in encoded for part in (_U64.pack(len(raw)), raw))
        return cls(key, data, _STRING, 0, len(encoded))

    def __len__(self) -> int:
        return self._length

    def raw(self) -> bytes:
        """The array as the format stores it: element type, length, elements."""
        return _U32.pack(self._type_id) + _U64.pack(self._length) + self._mapping[self._offset : self._end()]

    @property
    def element(self) -> str:
        """Element type as the format calls it: "string", "float32", "bool" ..."""
        return "string" if self._type_id == _STRING else _SCALARS[self._type_id][0]

    def __iter__(self) -> Iterator[str | int | float | bool]:
        return self.strings() if self._type_id == _STRING else iter(self.numpy().tolist())

    def tolist(self) -> list[str | int | float | bool]:
        return list(self)

    def strings(self) -> Iterator[str]:
        """One by one; bytes that are not UTF-8 come as lone surrogates. TypeError for another element type."""
        if self._type_id != _STRING:
            raise TypeError(f"{self.key} holds {self.element}, not strings")
        at = self._offset
        for _ in range(self._length):
            (size,) = _U64.unpack_from(self._mapping, at)
            yield self._mapping[at + 8 : at + 8 + size].decode("utf-8", "surrogateescape")
            at += 8 + size

    def _end(self) -> int:
        if self._type_id != _STRING:
            return self._offset + self._length * _CODES[self._type_id].size
        at = self._offset
        for _ in range(self._length):
            at += 8 + _U64.unpack_from(self._mapping, at)[0]
        return at

    def numpy(self) -> NDArray[np.generic]:
        """A copy, (len,) of the element type. TypeError for strings."""
        if self._type_id == _STRING:
            raise TypeError(f"{self.key} holds strings, not numbers")
        kind = np.dtype(_SCALARS[self._type_id][2])
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


class GGUF:
    """An open file. Arrays that `rows` returned keep the mapping alive after `close`."""

    format = "gguf"

    def __init__(
        self,
        path: Path,
        version: int,
        metadata: dict[str, Value],
        spans: dict[str, slice],
        tensors: dict[str, TensorInfo],
        mapping: mmap.mmap,
    ) -> None:
        self.path = path
        self.version = version
        self.metadata = metadata
        self.tensors = tensors
        self._spans = spans
        self._mapping = mapping

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        _close(self._mapping)

    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: None = None) -> T | None: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """The value, or `default` where the key is absent. A float may be stored as an integer.

        Raises BadCheckpoint naming file, key and value where it has another type.
        """
        return typed_value(self.path, self.metadata, key, kind, default)

    def require(self, key: str, kind: type[T]) -> T:
        """As `get`, but BadCheckpoint where the key is absent."""
        value = self.get(key, kind)
        if value is None:
            raise BadCheckpoint(f"{self.path}: {key} is missing from the metadata")
        return value

    def raw_value(self, key: str) -> bytes:
        """The bytes of a key's value as stored, its type id before it. KeyError where there is none."""
        return self._mapping[self._spans[key]]

    def read_file(self, name: str) -> bytes | None:
        """None: a GGUF file holds everything itself."""
        return None

    def tensor(self, name: str) -> TensorInfo:
        """BadCheckpoint where the file has no such tensor."""
        info = self.tensors.get(name)
        if info is None:
            raise BadCheckpoint(f"{self.path}: tensor {name} is missing")
        return info

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows start..stop as stored, (stop - start, row_bytes): a read-only view of the mapping, no copy."""
        info = self.tensor(name)
        if not 0 <= start <= stop <= info.num_rows:
            raise IndexError(f"rows {start}..{stop} of tensor {name}, which has {info.num_rows}")
        at = info.offset + start * info.row_bytes
        flat = np.frombuffer(self._mapping, np.uint8, (stop - start) * info.row_bytes, at)
        return flat.reshape(stop - start, info.row_bytes)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Give the pages of the rows back to the kernel. A later read maps them again: only speed is lost."""
        info = self.tensor(name)
        first = info.offset + start * info.row_bytes
        last = info.offset + (info.num_rows if stop is None else stop) * info.row_bytes
        page = first - first % mmap.PAGESIZE
        if last > first:
            self._mapping.madvise(mmap.MADV_DONTNEED, page, last - page)

    def release_all(self) -> None:
        """As `release`, for the whole file. The kernel maps more than what is read, in other tensors too."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


def open_gguf(path: str | Path, is_part: bool = False) -> GGUF:
    """Map the file and parse its header. `is_part`: it may be one of several files of a model.

    Raises BadCheckpoint for what cannot be read, is truncated or contradicts itself, UnsupportedModel for versions,
    byte orders, value types and block types that are not known.
    """
    path = Path(path)
    mapping = _map(path)
    try:
        return _Parser(path, mapping).parse(is_part)
    except BaseException:
        _close(mapping)
        raise


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
        raise BadCheckpoint(f"{path}: {key} is {_describe(value)} where {_kind_name(kind)} is expected")
    return value


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path}: the file is empty") from error


def _close(mapping: mmap.mmap) -> None:
    with suppress(BufferError):  # a view is still in use; the mapping goes with the last one
        mapping.close()


def _describe(value: Value) -> str:
    if isinstance(value, MetaArray):
        return f"an array of {len(value)} {value.element}"
    return f"{str(value)[:SPARE]!r} ({type(value).__name__})"


def _shown(name: str) -> str:
    """A name as an error quotes it: short, and without control characters."""
    return name[:SPARE] if name.isprintable() else ascii(name[:SPARE])


def _kind_name(kind: type) -> str:
    return "an array" if kind is MetaArray else f"a value of type {kind.__name__}"


class _Parser:
    """A cursor over the header; `field` is what an error names."""

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self.path = path
        self.mapping = mapping
        self.size = len(mapping)
        self.at = 0
        self.num_text_bytes = 0
        self.spans: dict[str, slice] = {}  # where the values lie
        self.field = "magic"

    def parse(self, is_part: bool) -> GGUF:
        version = self.version()
        num_tensors = self.count("tensor_count", _U64, MAX_TENSORS, 24)
        num_keys = self.count("metadata_kv_count", _U64, MAX_KEYS, 13)
        metadata = self.metadata(num_keys)
        if not is_part:
            self.refuse_part(metadata)
        infos = self.tensor_infos(num_tensors)
        alignment = self.alignment(metadata)
        tensors = self.place(infos, alignment)
        return GGUF(self.path, version, metadata, self.spans, tensors, self.mapping)

    def bad(self, why: str) -> NoReturn:
        raise BadCheckpoint(f"{self.path}: {self.field}: {why}")

    def unsupported(self, why: str) -> NoReturn:
        raise UnsupportedModel(f"{self.path}: {self.field}: {why}")

    # -- primitives --------------------------------------------------------------------------------------------------

    def need(self, num_bytes: int) -> None:
        left = self.size - self.at
        if num_bytes > left:
            self.bad(f"the file is truncated: {num_bytes} bytes are needed at offset {self.at}, {left} are left")

    def take(self, code: struct.Struct) -> int | float:
        self.need(code.size)
        value: int | float = code.unpack_from(self.mapping, self.at)[0]
        self.at += code.size
        return value

    def count(self, field: str, code: struct.Struct, most: int, least_bytes: int) -> int:
        """A count of things that take at least `least_bytes` each."""
        self.field = field
        count = int(self.take(code))
        if count > most:
            self.bad(f"{count} is more than the {most} that a model can have")
        if count * least_bytes > self.size - self.at:
            self.bad(f"{count} does not fit into the {self.size - self.at} bytes that are left of the file")
        return count

    def name(self, field: str) -> str:
        """A key or a tensor name."""
        self.field = field
        size = int(self.take(_U64))
        if size > MAX_NAME_BYTES:
            self.bad(f"a name of {size} bytes is longer than the {MAX_NAME_BYTES} that the format allows")
        raw = self.raw(size)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.bad(f"{raw[:SPARE]!r} is not UTF-8")

    def raw(self, size: int) -> bytes:
        self.need(size)
        self.at += size
        return self.mapping[self.at - size : self.at]

    # -- header ------------------------------------------------------------------------------------------------------

    def version(self) -> int:
        magic = self.raw(min(4, self.size))
        if magic != b"GGUF":
            self.bad(f"{magic!r} is not b'GGUF': this is no GGUF file")
        self.field = "version"
        version = int(self.take(_U32))
        if version & 0xFFFF == 0 and version:
            self.unsupported("the file is big-endian; convert it to little-endian first")
        if version not in (2, 3):
            self.unsupported(f"GGUF version {version} cannot be read; versions 2 and 3 can")
        return version

    def metadata(self, num_keys: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for index in range(num_keys):
            key = self.name(f"metadata key {index}")
            self.field = _shown(key)
            if not key or key in metadata:
                self.bad(f"metadata key {index} is {'a second of this name' if key else 'empty'}")
            start = self.at
            metadata[key] = self.value(key)
            self.spans[key] = slice(start, self.at)
        return metadata

    def refuse_part(self, metadata: dict[str, Value]) -> None:
        self.field = "split.count"
        parts = metadata.get("split.count", 0)
        if parts not in (0, 1):
            self.unsupported(
                f"the file is one of {_describe(parts)} parts: take the directory that holds them all, or merge them "
                "(llama-gguf-split --merge)"
            )

    def value(self, key: str) -> Value:
        type_id = int(self.take(_U32))
        if type_id == _STRING:
            return self.text()
        if type_id == _ARRAY:
            return self.array(key)
        if type_id == 7:
            return self.flag()
        if type_id not in _CODES:
            self.unsupported(f"value type {type_id} is unknown")
        return self.take(_CODES[type_id])

    def flag(self) -> bool:
        value = self.take(_CODES[7])
        if value not in (0, 1):
            self.bad(f"{value} is not a bool")
        return bool(value)

    def text(self) -> str:
        size = int(self.take(_U64))
        self.need(size)
        self.num_text_bytes += size
        if self.num_text_bytes > MAX_TEXT_BYTES:
            self.bad(f"a string of {size} bytes makes the metadata longer than the {MAX_TEXT_BYTES} bytes allowed")
        return self.raw(size).decode("utf-8", "replace")

    def array(self, key: str) -> MetaArray:
        type_id = int(self.take(_U32))
        length = int(self.take(_U64))
        start = self.at
        if type_id == _STRING:
            self.skip_strings(length)
        elif type_id in _CODES:
            self.need(length * _CODES[type_id].size)
            self.at += length * _CODES[type_id].size
        else:
            self.unsupported(
                "arrays of arrays cannot be read" if type_id == _ARRAY else f"value type {type_id} is unknown"
            )
        return MetaArray(key, self.mapping, type_id, start, length)

    def skip_strings(self, length: int) -> None:
        if length > MAX_STRINGS:
            self.bad(f"an array of {length} strings is longer than the {MAX_STRINGS} allowed")
        self.need(8 * length)
        at, size, mapping, read = self.at, self.size, self.mapping, _U64.unpack_from
        for _ in range(length):
            if at + 8 > size:
                self.need(at + 8 - self.at)
            at += 8 + read(mapping, at)[0]
        self.need(at - self.at)
        self.at = at

    # -- tensors -----------------------------------------------------------------------------------------------------

    def tensor_infos(self, num_tensors: int) -> list[TensorInfo]:
        """Infos whose offsets still count from the start of the tensor data."""
        infos: dict[str, TensorInfo] = {}
        for index in range(num_tensors):
            name = self.name(f"name of tensor {index}")
            self.field = f"tensor {_shown(name)}"
            if not name or name in infos:
                self.bad(f"tensor {index} has {'the name of an earlier one' if name else 'no name'}")
            infos[name] = self.tensor_info(name)
        return list(infos.values())

    def tensor_info(self, name: str) -> TensorInfo:
        num_dimensions = int(self.take(_U32))
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            self.bad(f"{num_dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        dimensions = [int(self.take(_U64)) for _ in range(num_dimensions)]
        type_id = int(self.take(_U32))
        offset = int(self.take(_U64))
        block_type = BLOCK_TYPES_BY_ID.get(type_id)
        if block_type is None:
            self.unsupported(f"block type {type_id} is unknown")
        if not all(0 < dimension < 1 << 48 for dimension in dimensions):
            self.bad(f"dimensions {dimensions} are not all between 1 and {1 << 48}")
        if dimensions[0] % block_type.block:
            self.bad(f"rows of {dimensions[0]} do not split into {block_type.name} blocks of {block_type.block}")
        nbytes = math.prod(dimensions[1:]) * block_type.row_bytes(dimensions[0])
        return TensorInfo(name, tuple(reversed(dimensions)), block_type.name, type_id, offset, nbytes)

    def alignment(self, metadata: dict[str, Value]) -> int:
        self.field = "general.alignment"
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(value) is not int or not 0 < value <= 1 << 30 or value & (value - 1):
            self.bad(f"{_describe(value)} is not a power of two")
        return value

    def place(self, infos: list[TensorInfo], alignment: int) -> dict[str, TensorInfo]:
        """The infos, in the file's order, with offsets from its start; none overlaps another or leaves the file."""
        start = -(-self.at // alignment) * alignment
        placed = [self.placed(info, start, alignment) for info in infos]
        end = 0
        for info in sorted(placed, key=lambda info: info.offset):
            self.field = f"tensor {_shown(info.name)}"
            if info.offset < end:
                self.bad(f"offset {info.offset - start} lies inside the tensor before it")
            end = info.offset + info.nbytes
        return {info.name: info for info in placed}

    def placed(self, info: TensorInfo, start: int, alignment: int) -> TensorInfo:
        self.field = f"tensor {_shown(info.name)}"
        if info.offset % alignment:
            self.bad(f"offset {info.offset} is not a multiple of the alignment {alignment}")
        if start + info.offset + info.nbytes > self.size:
            self.bad(
                f"{info.nbytes} bytes at offset {start + info.offset} end past the file's {self.size}: "
                "the file is truncated or damaged"
            )
        return msgspec.structs.replace(info, offset=start + info.offset)
