"""Memory readings from /proc and cgroups, v2 and v1. Readings only: what follows from them is decided elsewhere.

https://docs.kernel.org/filesystems/proc.html, https://docs.kernel.org/accounting/psi.html,
https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hearthd.cage import CGROUP, DAEMON, PROC, RUNNERS

MACHINE = "the machine"
MEMINFO_LINES = 5  # MemTotal, MemFree and MemAvailable are its first
UNLIMITED_BYTES = 1 << 60  # v1 says "no limit" by a number beyond it


@dataclass(frozen=True, slots=True)
class Scope:
    """What bounds memory: the machine, or a cgroup with a limit."""

    name: str  # "the machine", "cgroup /a/b"
    total_bytes: int  # of the machine, or the limit
    available_bytes: int  # page cache that can be dropped included


@dataclass(frozen=True, slots=True)
class Memory:
    """What the machine and this service's cgroups have, in bytes."""

    scopes: tuple[Scope, ...]  # the machine first, then this service's cgroups with a limit, innermost first

    @property
    def total_bytes(self) -> int:
        """Of the machine."""
        return self.scopes[0].total_bytes

    @property
    def available_bytes(self) -> int:
        """In the scope that has least."""
        return min(scope.available_bytes for scope in self.scopes)

    @property
    def limit_bytes(self) -> int | None:
        """The tightest cgroup limit; None: unlimited."""
        return min((scope.total_bytes for scope in self.scopes[1:]), default=None)


@dataclass(frozen=True, slots=True)
class Pressure:
    """How hard memory is to get. None: this machine does not tell."""

    some_avg10: float | None  # percent of the last 10 s in which some task waited for memory; machine or cgroup
    num_oom_kills: int | None  # ever, in this service's cgroup, else on the machine
    num_limit_hits: int | None  # ever, of a limit of this service's cgroup; limits of cells are none


def read_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> Memory:
    """The readings of this moment. Where /proc cannot be read, the machine has 0."""
    fields = _meminfo(proc / "meminfo")
    available = fields.get("MemAvailable", fields.get("MemFree", 0))
    machine = Scope(MACHINE, fields.get("MemTotal", 0), available)
    return Memory((machine, *_v2_scopes(proc, cgroup), *_v1_scopes(proc, cgroup)))


def read_pressure(proc: Path = PROC, cgroup: Path = CGROUP) -> Pressure:
    """The readings of this moment."""
    own, v1 = _group(proc, cgroup, ""), _group(proc, cgroup / "memory", "memory")
    v2 = own.parent if _in_cage(own) else own
    events, control = _fields(v2 / "memory.events"), _fields(v1 / "memory.oom_control")
    limited = [_fields(group / "memory.events.local") for group in (v2, v2 / RUNNERS)] if _in_cage(own) else [events]
    hits = [fields[name] for fields in limited for name in ("high", "max") if name in fields]
    failures = _number(v1 / "memory.failcnt")
    stalls = [_some_avg10(proc / "pressure" / "memory"), _some_avg10(v2 / "memory.pressure")]
    kills = next((counts for counts in (events, control) if "oom_kill" in counts), None)
    return Pressure(
        some_avg10=max((stall for stall in stalls if stall is not None), default=None),
        num_oom_kills=(_fields(proc / "vmstat") if kills is None else kills).get("oom_kill"),
        num_limit_hits=sum(hits) if hits else failures,
    )


def rss_bytes(pid: int, proc: Path = PROC) -> int:
    """Resident bytes of a process, shared pages included; 0 where it has ended."""
    return _statm(pid, proc)[0]


def anonymous_bytes(pid: int, proc: Path = PROC) -> int:
    """Resident bytes of a process that are of no file, so that nothing but swap can take them; 0 where it has ended."""
    resident, shared = _statm(pid, proc)
    return max(0, resident - shared)


def tree_rss_bytes(pid: int, proc: Path = PROC) -> int:
    """Sum of rss_bytes over a process and all its descendants; shared pages count once for each."""
    return sum(rss_bytes(member, proc) for member in _tree(pid, proc))


def _statm(pid: int, proc: Path) -> tuple[int, int]:
    with suppress(OSError, ValueError, IndexError):
        pages = (proc / str(pid) / "statm").read_text().split()
        return int(pages[1]) * os.sysconf("SC_PAGE_SIZE"), int(pages[2]) * os.sysconf("SC_PAGE_SIZE")
    return 0, 0


def _meminfo(path: Path) -> dict[str, int]:
    fields = {}
    with suppress(OSError, ValueError):
        for line in _text(path).splitlines()[:MEMINFO_LINES]:
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0]) << 10  # the file speaks of kB and means KiB
    return fields


def _text(path: Path) -> str:
    """The whole file, without the layers that Path.read_text has: this is read for as long as a model is loaded."""
    with path.open("rb", buffering=0) as file:
        return file.readall().decode("utf-8", "replace")


# cgroups


def _v2_scopes(proc: Path, root: Path) -> Iterator[Scope]:
    own = _group(proc, root, "")
    runners = [own.parent / RUNNERS] if _in_cage(own) else []
    for group in (*runners, *_ancestry(own, root)):
        limits = [_number(group / name) for name in ("memory.max", "memory.high")]  # the word "max" is no number
        limit = min((limit for limit in limits if limit is not None), default=None)
        used = _number(group / "memory.current")
        if limit is not None and used is not None:
            yield _scope(group, root, limit, used, _fields(group / "memory.stat"), "")


def _v1_scopes(proc: Path, root: Path) -> Iterator[Scope]:
    root /= "memory"
    if not root.is_dir():
        return
    own = _group(proc, root, "memory")
    for group in _ancestry(own, root):
        limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
        stat = _fields(group / "memory.stat")
        if group == own and limit is not None:  # limits of ancestors that cannot be seen from here count too
            limit = min(limit, stat.get("hierarchical_memory_limit", limit))
        if limit is not None and limit < UNLIMITED_BYTES and used is not None:
            yield _scope(group, root, limit, used, stat, "total_")


def _scope(group: Path, root: Path, limit: int, used: int, stat: Mapping[str, int], prefix: str) -> Scope:
    cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    return Scope(f"cgroup /{group.relative_to(root)}".removesuffix("."), limit, max(0, limit - max(0, used - cache)))


def _ancestry(group: Path, root: Path) -> Iterator[Path]:
    while group.is_relative_to(root):
        yield group
        group = group.parent


def _group(proc: Path, root: Path, controller: str) -> Path:
    """This process's cgroup below `root`; `root` itself where its own is not seen from here, as in a container."""
    with suppress(OSError):
        for line in _text(proc / "self" / "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                group = root / path.lstrip("/")
                if ".." not in group.parts and group.is_dir():
                    return group
    return root


def _in_cage(own: Path) -> bool:
    """Whether the service's cgroup is the one above, see cage.py: what children do is seen there."""
    return own.name == DAEMON and (own.parent / RUNNERS).is_dir()


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(_text(path))
    return None


def _fields(path: Path) -> dict[str, int]:
    """A file of lines `name number`; empty where it cannot be read."""
    with suppress(OSError, ValueError):
        return {name: int(value) for name, value in (line.split() for line in _text(path).splitlines())}
    return {}


def _some_avg10(path: Path) -> float | None:
    """From `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    with suppress(OSError, ValueError, IndexError):
        return float(_text(path).split()[1].removeprefix("avg10="))
    return None


# the process tree


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
