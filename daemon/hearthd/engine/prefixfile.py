"""An evaluated prompt in a file: its token ids, and the keys and values of each.

    head       HEAD
    ids        (num_tokens,) int32
    checksum   CRC-32 of all before, uint32
    padding    to a multiple of 4096 bytes
    values     (num_layers, 2, num_kv_heads, num_tokens, head_dim), as the KV cache holds them

Numbers are little endian. The values go to and from the cache's own memory, many rows a system call.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAGIC = b"HearthKV"
VERSION = 1
HEAD = struct.Struct("<8sI32s16s4III")  # magic, version, key, dtype, shape, num_tokens, num_exact
CHECKSUM = struct.Struct("<I")
ALIGNMENT = 4096
MAX_ROWS = os.sysconf("SC_IOV_MAX")  # buffers that one preadv(2) takes
GROUP_BYTES = 16 << 20  # written before the disk is waited for: what is dirty at a time

Ids = NDArray[np.int32]  # (num_tokens,)
Slot = NDArray[np.generic]  # (num_layers, 2, num_kv_heads, L, head_dim), each (L, head_dim) in one piece
Transfer = Callable[[int, list[memoryview], int], int]


class DamagedPrefix(Exception):
    """The file is none of ours, or was cut or changed."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What all files of one variant and KV form share."""

    key: bytes  # (32,): of what made the numbers
    dtype: str
    shape: tuple[int, int, int, int]  # num_layers, 2, num_kv_heads, head_dim

    @property
    def row_bytes(self) -> int:
        """Of one token in one head."""
        return self.shape[3] * np.dtype(self.dtype).itemsize

    def offset(self, num_tokens: int) -> int:
        """Where the values begin."""
        return -(-(HEAD.size + 4 * num_tokens + CHECKSUM.size) // ALIGNMENT) * ALIGNMENT

    def file_bytes(self, num_tokens: int) -> int:
        """Size of a file of so many tokens."""
        return self.offset(num_tokens) + math.prod(self.shape[:3]) * num_tokens * self.row_bytes

    def rows(self, slot: Slot, num_tokens: int) -> list[memoryview]:
        """The first positions of each head, as bytes. ValueError where the slot is another model's or too short."""
        if (*slot.shape[:3], slot.shape[4]) != self.shape or slot.dtype != self.dtype or slot.shape[3] < num_tokens:
            raise ValueError(f"a slot {slot.shape} of {slot.dtype} cannot hold {num_tokens} tokens of {self}")
        heads = np.ndindex(*self.shape[:3])
        return [slot[head][:num_tokens].view(np.uint8).reshape(-1).data for head in heads]


@dataclass(frozen=True, slots=True, eq=False)
class PrefixHeader:
    """What a file says before its values."""

    tokens: Ids
    num_exact: int  # leading tokens that are exact, see CachedTokens
    checksum: int


def read_header(fd: int, layout: Layout) -> PrefixHeader:
    """The header of an open file of any origin. Raises DamagedPrefix, OSError."""
    status = os.fstat(fd)
    data = os.pread(fd, HEAD.size, 0)
    if not stat.S_ISREG(status.st_mode) or len(data) < HEAD.size:
        raise DamagedPrefix("it has no header")
    magic, version, key, dtype, *shape, num_tokens, num_exact = HEAD.unpack(data)
    if (magic, version) != (MAGIC, VERSION):
        raise DamagedPrefix("it is no saved prompt of this version")
    if (key, dtype.rstrip(b"\0"), tuple(shape)) != (layout.key, layout.dtype.encode(), layout.shape):
        raise DamagedPrefix("it is another model's")
    if status.st_size != layout.file_bytes(num_tokens):
        raise DamagedPrefix(f"it has {status.st_size} bytes, not {layout.file_bytes(num_tokens)}")
    data += os.pread(fd, 4 * num_tokens + CHECKSUM.size, HEAD.size)
    checksum = zlib.crc32(data[: -CHECKSUM.size])
    if CHECKSUM.pack(checksum) != data[-CHECKSUM.size :] or num_exact > num_tokens:
        raise DamagedPrefix("its checksum is wrong")
    return PrefixHeader(np.frombuffer(data, "<i4", num_tokens, HEAD.size), num_exact, checksum)


def read_values(fd: int, layout: Layout, num_saved: int, slot: Slot, num_tokens: int) -> None:
    """Fills the slot's first `num_tokens` positions from a file of `num_saved`. Raises OSError."""
    for offset, rows in _extents(layout, num_saved, layout.rows(slot, num_tokens)):
        for _ in _transfer(os.preadv, fd, rows, offset):
            pass


def write_prefix(fd: int, layout: Layout, tokens: Ids, num_exact: int, slot: Slot, timeout_s: float) -> int:
    """Writes header and values through to the disk; the header's checksum.

    Raises OSError, TimeoutError among them.
    """
    deadline = time.monotonic() + timeout_s
    head = HEAD.pack(MAGIC, VERSION, layout.key, layout.dtype.encode(), *layout.shape, len(tokens), num_exact)
    head += tokens.astype("<i4").tobytes()
    checksum = zlib.crc32(head)
    head += CHECKSUM.pack(checksum)
    header = memoryview(head.ljust(layout.offset(len(tokens)), b"\0"))
    for _ in _transfer(os.pwritev, fd, [header, *layout.rows(slot, len(tokens))], 0):
        os.fdatasync(fd)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the disk takes longer than {timeout_s:g} s")
    os.fsync(fd)
    return checksum


def _extents(layout: Layout, num_saved: int, rows: list[memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """Which rows lie in one piece of the file, and where."""
    offset, stride = layout.offset(num_saved), num_saved * layout.row_bytes
    if rows and len(rows[0]) == stride:
        yield offset, rows
        return
    for index, row in enumerate(rows):
        yield offset + index * stride, [row]


def _transfer(transfer: Transfer, fd: int, rows: list[memoryview], offset: int) -> Iterator[None]:
    """Moves all rows from or to `offset` on, in groups; the system may take less of one than it is given."""
    for group in _groups(rows):
        while group:
            done = transfer(fd, group, offset)
            if not done:
                raise OSError(errno.EIO, "the file ends too early")
            offset += done
            group = _remaining(group, done)
        yield


def _groups(rows: list[memoryview]) -> Iterator[list[memoryview]]:
    group: list[memoryview] = []
    num_bytes = 0
    for row in rows:
        if group and (len(group) == MAX_ROWS or num_bytes + len(row) > GROUP_BYTES):
            yield group
            group, num_bytes = [], 0
        group.append(row)
        num_bytes += len(row)
    if num_bytes:
        yield group


def _remaining(rows: list[memoryview], done: int) -> list[memoryview]:
    """The rows without their first `done` bytes."""
    for index, row in enumerate(rows):
        if done < len(row):
            return [row[done:], *rows[index + 1 :]]
        done -= len(row)
    return []
