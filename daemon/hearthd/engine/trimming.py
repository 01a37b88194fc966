"""What a process may give back of its memory without forgetting anything.

A page that still is what its file holds can leave and comes back when it is touched; one that was written to, since it
was mapped privately, cannot. /proc/self/pagemap tells them apart
(https://docs.kernel.org/admin-guide/mm/pagemap.html).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PRESENT, OF_FILE = np.uint64(1 << 63), np.uint64(1 << 61)  # bits of an entry; a private copy is not of its file
ENTRY_BYTES = 8
MADV_DONTNEED, MADV_COLD = 4, 20  # asm-generic/mman-common.h; cold since Linux 5.4
M_ARENA_MAX = -8  # malloc.h
_FILE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r..p \S+ \S+ [1-9]\d* +(/.*)$", re.MULTILINE)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def share_arena() -> None:
    """Has all threads take memory from one place, so that what one of them has freed serves the others."""
    _libc.mallopt(M_ARENA_MAX, 1)


def resident_bytes() -> int:
    """The RSS of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def anonymous_bytes() -> int:
    """Of the RSS of this process, what is of no file."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * mmap.PAGESIZE


def release_freed() -> None:
    """Gives back what was freed and the allocator still holds: ten megabytes and more after a prompt."""
    _libc.malloc_trim(0)


def trim(level: int = 2) -> int:
    """Gives back what the allocator and the mapped files hold; bytes by which the RSS has fallen.

    Nothing below `level` 2. What is needed again is read from its file again, most likely from the page cache.
    """
    if level < 2:
        return 0
    before = resident_bytes()
    release_freed()
    drop_clean_pages()
    return max(0, before - resident_bytes())


def drop_clean_pages(directory: Path = Path("/")) -> None:
    """Unmaps every page that its file under `directory` can give again, and lets the kernel reclaim it before others.

    Pages that were written to or locked stay; so does everything where the kernel does not tell which those are.
    """
    with suppress(OSError), Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for start, end in _file_regions(directory):
            for first, last in _clean_runs(_entries(pagemap.fileno(), start, end)):
                address, size = start + first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE
                _libc.madvise(address, size, MADV_COLD)
                _libc.madvise(address, size, MADV_DONTNEED)


def _file_regions(directory: Path) -> list[tuple[int, int]]:
    """Start and end of private mappings of files in `directory`; of those that touch one another, of all together."""
    maps = Path("/proc/self/maps").read_text(errors="surrogateescape")
    regions: list[tuple[int, int]] = []
    place = str(directory.resolve()).rstrip("/") + "/"
    for found in _FILE.finditer(maps):
        if not found[3].startswith(place):
            continue
        start, end = int(found[1], 16), int(found[2], 16)
        if regions and regions[-1][1] == start:
            start = regions.pop()[0]
        regions.append((start, end))
    return regions


def _entries(pagemap: int, start: int, end: int) -> NDArray[np.uint64]:
    """What pagemap says of each page between two addresses."""
    page = mmap.PAGESIZE
    content = os.pread(pagemap, (end - start) // page * ENTRY_BYTES, start // page * ENTRY_BYTES)
    return np.frombuffer(content, np.uint64)


def _clean_runs(entries: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Where pages lie side by side that are present and their file's: index of the first, and behind the last."""
    clean = (entries & (PRESENT | OF_FILE)) == (PRESENT | OF_FILE)
    edges = np.flatnonzero(np.diff(clean, prepend=False, append=False))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
