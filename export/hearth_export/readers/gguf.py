"""GGUF, versions 2 and 3, little endian: bytes -> (metadata, tensors that are read lazily through the mapping).

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file must not be truncated by somebody else while
it is open: the kernel answers a read past its new end with SIGBUS.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.header import Header, read_header
from hearth_export.readers.values import TensorInfo, Value
from hearth_export.readers.words import Words


class GGUF(Words):
    """An open file. Arrays that `rows` returned keep the mapping alive after `close`."""

    format = "gguf"
    told_by = ""

    def __init__(self, path: Path, header: Header, mapping: mmap.mmap) -> None:
        self.path = path
        self.version = header.version
        self._header = header
        self._mapping = mapping

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name, in the file's order."""
        return self._header.tensors

    @property
    def metadata(self) -> Mapping[str, Value]:
        """By key, in the file's order."""
        return self._header.metadata

    def close(self) -> None:
        """Lets the file go."""
        _close(self._mapping)

    def raw_value(self, key: str) -> bytes:
        """The bytes of a key's value as stored, its type id before it. KeyError where there is none."""
        return self._mapping[self._header.spans[key]]

    def read_file(self, name: str) -> bytes | None:
        """None: a GGUF file holds everything itself."""
        return None

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
        return GGUF(path, read_header(path, mapping, is_part), mapping)
    except BaseException:
        _close(mapping)
        raise


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
