"""The header of a GGUF file: every count is checked against the bytes that are left before anything of that size is
built, so a hostile one costs no more time or memory than its own length.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES_BY_ID
from hearth_export.readers.values import ARRAY, CODES, SPARE, STRING, U32, U64, MetaArray, TensorInfo, Value, described

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_NAME_BYTES = 1 << 16  # the format's own limit for keys
MAX_STRINGS = 1 << 23  # of one array; the largest vocabularies have 2**18 tokens
MAX_TEXT_BYTES = 1 << 26  # of all scalar strings together
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the tensors' bytes."""

    version: int
    metadata: dict[str, Value]
    spans: dict[str, slice]  # where the values lie in the file
    tensors: dict[str, TensorInfo]


def read_header(path: Path, mapping: mmap.mmap, is_part: bool = False) -> Header:
    """The header of the file `path`, which is mapped. `is_part`: it may be one of several files of a model.

    Raises BadCheckpoint for what is truncated or contradicts itself, UnsupportedModel for versions, byte orders, value
    types and block types that are not known.
    """
    return _Parser(path, mapping).parse(is_part)


def _shown(name: str) -> str:
    """A name as an error quotes it: short, and without control characters."""
    return name[:SPARE] if name.isprintable() else ascii(name[:SPARE])


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

    def parse(self, is_part: bool) -> Header:
        version = self.version()
        num_tensors = self.count("tensor_count", U64, MAX_TENSORS, 24)
        num_keys = self.count("metadata_kv_count", U64, MAX_KEYS, 13)
        metadata = self.metadata(num_keys)
        if not is_part:
            self.refuse_part(metadata)
        infos = self.tensor_infos(num_tensors)
        alignment = self.alignment(metadata)
        tensors = self.place(infos, alignment)
        return Header(version, metadata, self.spans, tensors)

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
        size = int(self.take(U64))
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
        version = int(self.take(U32))
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
                f"the file is one of {described(parts)} parts: take the directory that holds them all, or merge them "
                "(llama-gguf-split --merge)"
            )

    def value(self, key: str) -> Value:
        type_id = int(self.take(U32))
        if type_id == STRING:
            return self.text()
        if type_id == ARRAY:
            return self.array(key)
        if type_id == 7:
            return self.flag()
        if type_id not in CODES:
            self.unsupported(f"value type {type_id} is unknown")
        return self.take(CODES[type_id])

    def flag(self) -> bool:
        value = self.take(CODES[7])
        if value not in (0, 1):
            self.bad(f"{value} is not a bool")
        return bool(value)

    def text(self) -> str:
        size = int(self.take(U64))
        self.need(size)
        self.num_text_bytes += size
        if self.num_text_bytes > MAX_TEXT_BYTES:
            self.bad(f"a string of {size} bytes makes the metadata longer than the {MAX_TEXT_BYTES} bytes allowed")
        return self.raw(size).decode("utf-8", "replace")

    def array(self, key: str) -> MetaArray:
        type_id = int(self.take(U32))
        length = int(self.take(U64))
        start = self.at
        if type_id == STRING:
            self.skip_strings(length)
        elif type_id in CODES:
            self.need(length * CODES[type_id].size)
            self.at += length * CODES[type_id].size
        else:
            self.unsupported(
                "arrays of arrays cannot be read" if type_id == ARRAY else f"value type {type_id} is unknown"
            )
        return MetaArray(key, self.mapping, type_id, start, length)

    def skip_strings(self, length: int) -> None:
        if length > MAX_STRINGS:
            self.bad(f"an array of {length} strings is longer than the {MAX_STRINGS} allowed")
        self.need(8 * length)
        at, size, mapping, read = self.at, self.size, self.mapping, U64.unpack_from
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
        num_dimensions = int(self.take(U32))
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            self.bad(f"{num_dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        dimensions = [int(self.take(U64)) for _ in range(num_dimensions)]
        type_id = int(self.take(U32))
        offset = int(self.take(U64))
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
            self.bad(f"{described(value)} is not a power of two")
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
