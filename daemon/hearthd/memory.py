"""Memory readings from /proc and cgroup v2. Readings only: what follows from them is decided elsewhere.

https://docs.kernel.org/filesystems/proc.html, https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """What the machine and this process's cgroups have, in bytes."""

    total_bytes: int
    available_bytes: int  # MemAvailable, cut by what the tightest cgroup has left
    limit_bytes: int | None  # the tightest cgroup limit; None: unlimited


def read_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> Memory:
    """The readings of this moment. Where /proc cannot be read, all is 0."""
    fields = _meminfo(proc / "meminfo")
    total = fields.get("MemTotal", 0)
    available = fields.get("MemAvailable", fields.get("MemFree", 0))
    limits = list(_cgroup_limits(proc, cgroup))
    left = [max(0, limit - used) for limit, used in limits]
    return Memory(
        total_bytes=total,
        available_bytes=min([available, *left]),
        limit_bytes=min((limit for limit, _ in limits), default=None),
    )


def rss_bytes(pid: int, proc: Path = PROC) -> int:
    """Resident bytes of a process, shared pages included; 0 where it has ended."""
    with suppress(OSError, ValueError, IndexError):
        return int((proc / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def tree_rss_bytes(pid: int, proc: Path = PROC) -> int:
    """Sum of rss_bytes over a process and all its descendants; shared pages count once for each."""
    return sum(rss_bytes(member, proc) for member in _tree(pid, proc))


def _meminfo(path: Path) -> dict[str, int]:
    fields = {}
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0]) << 10  # the file speaks of kB and means KiB
    return fields


def _cgroup_limits(proc: Path, root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without reclaimable page cache) of each limited cgroup, from this process's up to the root."""
    group = _cgroup_of_self(proc, root)
    while group is not None and group.is_relative_to(root):
        limit = _number(group / "memory.max")  # the word "max" is no number: unlimited
        used = _number(group / "memory.current")
        if limit is not None and used is not None:
            yield limit, max(0, used - _inactive_file(group / "memory.stat"))
        group = group.parent


def _cgroup_of_self(proc: Path, root: Path) -> Path | None:
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            if line.startswith("0::/"):  # the v2 hierarchy
                return root / line.removeprefix("0::/")
    return None


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _inactive_file(path: Path) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0


def _tree(pid: int, proc: Path) -> set[int]:
    parents = dict(_parents(proc))
    tree, added = {pid}, True
    while added:
        found = {child for child, parent in parents.items() if parent in tree} - tree
        tree |= found
        added = bool(found)
    return tree


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    for directory in proc.iterdir():
        if directory.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                # the command in parentheses may hold blanks and parentheses itself
                after_command = (directory / "stat").read_text(errors="replace").rpartition(")")[2]
                yield int(directory.name), int(after_command.split()[1])
