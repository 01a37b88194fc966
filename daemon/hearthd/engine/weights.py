"""Where the weights of an open session lie in this process: made its own memory, or kept from leaving it.

ONNX Runtime maps a variant's data files, privately and writable, and copies what its kernels want in another
order. What it copied lies in anonymous memory; the rest is read from the file when it is first used, and may be
dropped when memory is short. Both are found in /proc/self/smaps
(https://docs.kernel.org/filesystems/proc.html).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MADV_POPULATE_WRITE = 23  # asm-generic/mman-common.h; Linux 5.14
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Region:
    """One mapping of this process."""

    address: int
    size_bytes: int
    resident_bytes: int
    permissions: str  # "rw-p"
    path: str  # "" where it is anonymous

    @property
    def is_private(self) -> bool:
        """Whether writing to it would change nothing but this process."""
        return self.permissions.startswith("rw") and self.permissions.endswith("p")


def parse_regions(smaps: str) -> Iterator[Region]:
    """The mappings that a text in the form of /proc/PID/smaps lists."""
    head: re.Match[str] | None = None
    for line in smaps.splitlines():
        if found := _HEAD.fullmatch(line):
            head = found
        elif head is not None and line.startswith("Rss:"):
            start, end = int(head[1], 16), int(head[2], 16)
            yield Region(start, end - start, int(line.split()[1]) << 10, head[3], head[4])


def _regions() -> list[Region]:
    return list(parse_regions(Path("/proc/self/smaps").read_text(errors="surrogateescape")))


def _is_of(region: Region, directory: Path) -> bool:
    return region.is_private and region.path.startswith(f"{directory.resolve()}/")


def _is_mapped(region: Region) -> bool:
    return any(other.address <= region.address < other.address + other.size_bytes for other in _regions())


def _call(name: str, region: Region, *arguments: int) -> None:
    call = getattr(_libc, name)
    if call(ctypes.c_void_p(region.address), ctypes.c_size_t(region.size_bytes), *arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def read_in(directory: Path) -> None:
    """Copies what is still mapped from files under `directory` into anonymous memory, at the same addresses.

    Raises OSError where the kernel cannot (EINVAL before Linux 5.14) or memory is short.
    """
    for region in _regions():
        if _is_of(region, directory):
            try:
                _call("madvise", region, MADV_POPULATE_WRITE)
            except OSError as error:
                if error.errno != errno.ENOMEM or _is_mapped(region):
                    raise  # else whoever mapped it has let it go meanwhile


def _held(directory: Path) -> list[Region]:
    """What holds weights: the files' mappings, and anonymous memory of which most is in use."""
    return [
        region
        for region in _regions()
        if _is_of(region, directory)
        or (region.is_private and region.path in ("", "[heap]") and 2 * region.resident_bytes >= region.size_bytes)
    ]


def lock(directory: Path) -> str:
    """Locks the weights from `directory`, as far as they are in use, into memory (mlock(2)).

    "" when they are; otherwise the sentence that says why not, and nothing is locked.
    """
    regions: list[Region] = []
    try:
        regions = _held(directory)
        _raise_limit()
        for region in regions:
            _call("mlock", region)
    except OSError as error:
        _libc.munlockall()
        return _refusal(sum(region.size_bytes for region in regions), error)
    return ""


def _raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _refusal(needed_bytes: int, error: OSError) -> str:
    allowed, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if allowed == resource.RLIM_INFINITY or needed_bytes <= allowed:
        return f"use_mlock: the weights are not locked into memory: {error.strerror}"
    return (
        f"use_mlock: the weights are not locked into memory: they take {needed_bytes >> 20} MiB, and RLIMIT_MEMLOCK "
        f"(ulimit -l, LimitMEMLOCK= of a systemd unit) allows {allowed >> 20} MiB"
    )
