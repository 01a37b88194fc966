"""Keys and values of the tokens evaluated so far, in memory that is resident only where it was written.

Slots trade places by moving page tables, not bytes (mremap(2), MREMAP_DONTUNMAP, Linux 5.7): the sequences that decode
together must lie side by side, and they come and go.
"""

from __future__ import annotations

import ctypes
import math
import mmap

import numpy as np
from numpy.typing import NDArray

from hearthd.store.variant import VariantInfo

MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4  # linux/mman.h
MADV_DONTNEED, MADV_NOHUGEPAGE = 4, 15  # asm-generic/mman-common.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def positions(num_ctx: int, row_bytes: int, page_bytes: int) -> int:
    """The least number of positions, `num_ctx` or more, of which `row_bytes` each fill whole pages."""
    step = page_bytes // math.gcd(row_bytes, page_bytes)
    return -(-num_ctx // step) * step


class KVCache:
    """One buffer for all layers and slots: (num_layers, 2, num_slots, num_kv_heads, L, head_dim).

    L is num_ctx or a little more, so that a slot's part of each layer fills whole pages. The mapping is private and
    anonymous: untouched pages cost nothing, so resident memory follows the tokens in use.
    """

    def __init__(self, info: VariantInfo, num_ctx: int, num_slots: int = 1, dtype: str = "") -> None:
        held = np.dtype(dtype or info.kv_dtype)
        row_bytes = info.num_kv_heads * info.head_dim * held.itemsize
        self.num_slots = num_slots
        length = positions(num_ctx, row_bytes, mmap.PAGESIZE)
        shape = (info.num_layers, 2, num_slots, info.num_kv_heads, length, info.head_dim)
        self._part_bytes = row_bytes * length  # of one slot in one layer, keys or values
        self.num_bytes = 2 * info.num_layers * num_slots * self._part_bytes
        self._mapping = _reserve(self.num_bytes)
        self.values: NDArray[np.generic] = np.frombuffer(self._mapping, held).reshape(shape)
        self._aside = _reserve(self._part_bytes)
        self._aside_address = _address(self._aside)

    def of(self, layer: int, kind: str) -> NDArray[np.generic]:
        """Keys or values of a layer, (num_slots, num_kv_heads, L, head_dim): past and present at once."""
        buffer: NDArray[np.generic] = self.values[layer, ("key", "value").index(kind)]
        return buffer

    def slot(self, index: int) -> NDArray[np.generic]:
        """All of one slot, (num_layers, 2, num_kv_heads, L, head_dim)."""
        part: NDArray[np.generic] = self.values[:, :, index]
        return part

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, in another one too."""
        self.slot(target)[..., :length, :] = self.slot(source)[..., :length, :]

    def swap(self, left: int, right: int) -> None:
        """Two slots trade places."""
        if left == right:
            return
        for start in range(0, self.num_bytes, self.num_slots * self._part_bytes):
            first = self.values.ctypes.data + start
            self._swap(first + left * self._part_bytes, first + right * self._part_bytes)

    def _swap(self, left: int, right: int) -> None:
        size, aside = self._part_bytes, self._aside_address
        if _move(left, aside, size):
            if _move(right, left, size) and _move(aside, right, size):
                return
            raise OSError(ctypes.get_errno(), "mremap: the KV cache is torn")
        held = ctypes.string_at(left, size)  # the kernel cannot: by hand
        ctypes.memmove(left, right, size)
        ctypes.memmove(right, held, size)

    def release(self, index: int, length: int) -> None:
        """Gives back the memory of a slot's positions from `length` on; whoever reads them finds zeros."""
        head_bytes = self.values.strides[3]
        kept_bytes = length * self.values.strides[4]
        first = self.values.ctypes.data + index * self._part_bytes
        for part in range(first, first + self.num_bytes, self.num_slots * self._part_bytes):
            for head in range(part, part + self._part_bytes, head_bytes) if length else (part,):
                _discard(head + kept_bytes, head + (head_bytes if length else self._part_bytes))


def _reserve(num_bytes: int) -> mmap.mmap:
    mapping = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # a huge page would make a whole window resident for its first token
    _libc.madvise(_address(mapping), num_bytes, MADV_NOHUGEPAGE)
    return mapping


def _address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def _move(source: int, target: int, num_bytes: int) -> bool:
    """Moves pages; both ranges stay mapped, the first one is empty afterwards."""
    moved = _libc.mremap(source, num_bytes, num_bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, target)
    return bool(moved == target)


def _discard(start: int, stop: int) -> None:
    """Gives back the whole pages between two addresses."""
    page = mmap.PAGESIZE
    start, stop = -(-start // page) * page, stop // page * page
    if stop > start:
        _libc.madvise(start, stop - start, MADV_DONTNEED)
