"""Safetensors: a JSON header, then tensors, read lazily through the mapping.

Layout: https://github.com/huggingface/safetensors/blob/main/docs/source/index.mdx: 8 bytes of header length (little
endian), the header, the data. Everything that the header claims is checked against the file's length before it is used.
A file must not be truncated by somebody else while it is open: the kernel answers a read past its new end with SIGBUS.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from hearth_export.errors import BadCheckpoint
from hearth_export.ggml import Bytes

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's own limit
MAX_TENSORS = 1 << 17
MAX_INDEX_BYTES = 64 << 20
MAX_SHARDS = 4096
MAX_DIMENSIONS = 8
MAX_DIMENSION = 1 << 48
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHOWN = 64  # how much of a hostile name an error quotes
# bits of a value of each dtype; what a name does not say here may still lie in a file, unread
DTYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


_header_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry_decoder = msgspec.json.Decoder(_Entry)
_index_decoder = msgspec.json.Decoder(_Index)


class Stored(msgspec.Struct, frozen=True):
    """A tensor as a file stores it."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    file: SafetensorsFile
    offset: int  # from the start of the file, bytes
    nbytes: int

    def data(self) -> Bytes:
        """All bytes: a read-only view of the mapping, (nbytes,) uint8."""
        return self.file.view(self.offset, self.nbytes)

    def release(self) -> None:
        """Gives its pages back to the kernel. A later read maps them again: only speed is lost."""
        self.file.release(self.offset, self.nbytes)


class SafetensorsFile:
    """An open file. Arrays that a tensor's `data` returned keep the mapping alive after `close`."""

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self.path = path
        self.tensors: dict[str, Stored] = {}
        self._mapping = mapping

    def view(self, offset: int, num_bytes: int) -> Bytes:
        return np.frombuffer(self._mapping, np.uint8, num_bytes, offset)

    def release(self, offset: int, num_bytes: int) -> None:
        page = offset - offset % mmap.PAGESIZE
        if num_bytes:
            self._mapping.madvise(mmap.MADV_DONTNEED, page, offset + num_bytes - page)

    def release_all(self) -> None:
        self._mapping.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        with suppress(BufferError):  # a view is still in use; the mapping goes with the last one
            self._mapping.close()


def open_safetensors(path: Path) -> SafetensorsFile:
    """Maps the file and parses its header.

    Raises BadCheckpoint for what cannot be read, is truncated or contradicts itself.
    """
    mapping = _map(path)
    file = SafetensorsFile(path, mapping)
    try:
        file.tensors = _tensors(file, mapping)
    except BaseException:
        file.close()
        raise
    return file


def open_shards(directory: Path) -> list[SafetensorsFile]:
    """The files of a checkpoint: model.safetensors, or those that model.safetensors.index.json names, or the only one.

    Raises BadCheckpoint also where a file that the index names is missing, or lacks a tensor that it should hold.
    """
    weight_map = _weight_map(directory)
    names = sorted(set(weight_map.values())) or [_single(directory)]
    files: list[SafetensorsFile] = []
    try:
        files.extend(open_safetensors(directory / name) for name in names)
        _check_map(directory, weight_map, dict(zip(names, files, strict=True)))
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _single(directory: Path) -> str:
    if (directory / SINGLE).exists():
        return SINGLE
    others = sorted(path.name for path in directory.glob("*.safetensors"))[:2]
    if len(others) == 1:
        return others[0]
    pickled = next(directory.glob("*.bin"), None)
    advice = f"; {pickled.name[:SHOWN]!a} is not read: save the model as safetensors first" if pickled else ""
    raise BadCheckpoint(f"{directory}: there is neither {SINGLE} nor {INDEX}{advice}")


def _weight_map(directory: Path) -> dict[str, str]:
    """Tensor name -> file name; {} where there is no index, or one file that transformers would read before it."""
    path = directory / INDEX
    if (directory / SINGLE).exists() or not path.exists():
        return {}
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise BadCheckpoint(f"{path}: the index is larger than {MAX_INDEX_BYTES} bytes")
        weight_map = _index_decoder.decode(path.read_bytes()).weight_map
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: the index is damaged: {error}") from error
    shards = set(weight_map.values())
    if not 0 < len(shards) <= MAX_SHARDS:
        raise BadCheckpoint(f"{path}: {len(shards)} files; 1 to {MAX_SHARDS} are possible")
    for name in shards:
        if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
            raise BadCheckpoint(f"{path}: {_quoted(name)} is no name for a file beside the index")
        if not (directory / name).exists():
            raise BadCheckpoint(f"{path}: names the file {_quoted(name)}, which is missing")
    return weight_map


def _check_map(directory: Path, weight_map: dict[str, str], files: dict[str, SafetensorsFile]) -> None:
    for tensor, name in weight_map.items():
        if tensor not in files[name].tensors:
            raise BadCheckpoint(f"{directory / name}: tensor {_quoted(tensor)} is missing, which {INDEX} expects there")


def _map(path: Path) -> mmap.mmap:
    try:
        if path.exists() and not path.is_file():  # a pipe would never open
            raise BadCheckpoint(f"{path}: is no file")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path}: the file is empty") from error


def _tensors(file: SafetensorsFile, mapping: mmap.mmap) -> dict[str, Stored]:
    entries, start = _header(file.path, mapping)
    tensors = {name: _stored(file, name, raw, start, len(mapping)) for name, raw in entries.items()}
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset < end:
            raise BadCheckpoint(f"{file.path}: tensor {_quoted(tensor.name)} lies inside the tensor before it")
        end = tensor.offset + tensor.nbytes
    return tensors


def _header(path: Path, mapping: mmap.mmap) -> tuple[dict[str, msgspec.Raw], int]:
    """The header's entries, still JSON, and where the data begins."""
    size = len(mapping)
    if size < 8:
        raise BadCheckpoint(f"{path}: the file is truncated: {size} bytes hold no header length")
    num_bytes = int.from_bytes(mapping[:8], "little")
    if num_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise BadCheckpoint(
            f"{path}: the header length {num_bytes} is beyond the file's {size} bytes or the {MAX_HEADER_BYTES} "
            "allowed: the file is truncated, damaged or no safetensors file"
        )
    try:
        entries = _header_decoder.decode(mapping[8 : 8 + num_bytes])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: the header is damaged: {error}") from error
    entries.pop("__metadata__", None)
    if len(entries) > MAX_TENSORS:
        raise BadCheckpoint(f"{path}: {len(entries)} tensors are more than the {MAX_TENSORS} that a model can have")
    return entries, 8 + num_bytes


def _stored(file: SafetensorsFile, name: str, raw: msgspec.Raw, start: int, size: int) -> Stored:
    where = f"{file.path}: tensor {_quoted(name)}"
    try:
        entry = _entry_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{where}: the header's entry is damaged: {error}") from error
    bits = DTYPES.get(entry.dtype)
    if bits is None:
        raise BadCheckpoint(f"{where}: the dtype {_quoted(entry.dtype)} is unknown")
    if len(entry.shape) > MAX_DIMENSIONS or not all(0 <= size <= MAX_DIMENSION for size in entry.shape):
        raise BadCheckpoint(f"{where}: {str(entry.shape)[:SHOWN]} is no shape of a tensor")
    first, last = entry.data_offsets
    if not 0 <= first <= last <= size - start:
        raise BadCheckpoint(
            f"{where}: bytes {first} to {last} do not lie in the {size - start} bytes of data: "
            "the file is truncated or damaged"
        )
    if math.prod(entry.shape) * bits != (last - first) * 8:
        raise BadCheckpoint(f"{where}: {entry.shape} of {entry.dtype} does not take the {last - first} bytes it has")
    return Stored(name, entry.dtype, tuple(entry.shape), file, start + first, last - first)


def _quoted(name: str) -> str:
    """A name as an error quotes it: short, and without control characters."""
    return name[:SHOWN] if name.isprintable() else ascii(name[:SHOWN])
