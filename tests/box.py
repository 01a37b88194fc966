"""Processes that may have only so much memory together: a cgroup where one can be made, else a limit on each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PATIENCE_S = 20.0  # for killed processes to be gone


@dataclass(frozen=True, slots=True)
class Files:
    """How a version of cgroups spells it."""

    limits: tuple[str, ...]  # those of swap after those of memory
    no_swap: str
    usage: str
    kills: str  # the file with a line "oom_kill N"


V1 = Files(("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), "", "memory.usage_in_bytes", "memory.oom_control")
V2 = Files(("memory.max",), "memory.swap.max", "memory.current", "memory.events")


class Box:
    """A limit on memory that processes are started in. `kind` says what holds them: cgroup v2, cgroup v1, rlimit."""

    def __init__(self, kind: str, limit_bytes: int, group: Path | None, files: Files = V2) -> None:
        self.kind = kind
        self.limit_bytes = limit_bytes
        self._group = group
        self._files = files

    @property
    def shared(self) -> bool:
        """Whether the limit is one for all processes together, so that one may crowd out another."""
        return self._group is not None

    def wrap(self) -> tuple[str, ...]:
        """What a command starts with to be in the box before its program runs."""
        if self._group is None:
            return ("sh", "-c", f'ulimit -d {self.limit_bytes >> 10}; exec "$@"', "box")
        return ("sh", "-c", f'echo $$ > {self._group}/cgroup.procs && exec "$@"', "box")

    def settings(self, models_bytes: int) -> dict[str, str]:
        """Of a daemon in the box whose models have so much room: what it cannot read for itself."""
        return {} if self.shared else {"HEARTH_MEMORY": str(models_bytes)}

    def limit(self, limit_bytes: int) -> None:
        """Another limit from now on, above what is in use."""
        self.limit_bytes = limit_bytes
        if self._group is not None:
            order = self._files.limits
            grows = limit_bytes >= _number(self._group / order[0])
            for name in reversed(order) if grows else order:  # memory alone is never above memory with swap
                with suppress(FileNotFoundError):
                    (self._group / name).write_text(str(limit_bytes))

    def used_bytes(self) -> int:
        """What all its processes hold, page cache included."""
        return 0 if self._group is None else _number(self._group / self._files.usage)

    def held_bytes(self) -> int:
        """What all its processes hold and the kernel cannot take back by dropping page cache."""
        if self._group is None:
            return 0
        fields = dict(line.split() for line in (self._group / "memory.stat").read_text().splitlines())
        prefix = "total_" if self.kind == "cgroup v1" else ""
        cache = sum(int(fields.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))
        return self.used_bytes() - cache

    def num_kills(self) -> int:
        """Processes in it that the kernel killed for memory so far."""
        if self._group is None:
            return 0
        lines = (self._group / self._files.kills).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def empty(self) -> None:
        """Kills what is left in it and removes it."""
        if self._group is None:
            return
        deadline = time.monotonic() + PATIENCE_S
        while pids := (self._group / "cgroup.procs").read_text().split():
            assert time.monotonic() < deadline, f"still in the box: {pids}"
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        self._group.rmdir()


@contextmanager
def box(limit_bytes: int) -> Iterator[Box]:
    """A box with that limit; its processes are gone after the block."""
    found = _make(limit_bytes)
    try:
        found.limit(limit_bytes)
        yield found
    finally:
        found.empty()


def _make(limit_bytes: int) -> Box:
    for parent in (CGROUP, CGROUP / "unified"):
        if (group := _child(parent, V2)) is not None:
            with suppress(OSError):
                (group / V2.no_swap).write_text("0")
            return Box("cgroup v2", limit_bytes, group, V2)
    for parent in (_own_v1_group(), CGROUP / "memory"):
        if (group := _child(parent, V1)) is not None:
            return Box("cgroup v1", limit_bytes, group, V1)
    return Box("rlimit", limit_bytes, None)


def _child(parent: Path, files: Files) -> Path | None:
    """A new cgroup below `parent` whose limit can be set; None where there can be none."""
    group = parent / f"hearth-box-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
    except OSError:
        return None
    limit = group / files.limits[0]
    if limit.exists() and os.access(limit, os.W_OK) and os.access(group / "cgroup.procs", os.W_OK):
        return group
    with suppress(OSError):
        group.rmdir()
    return None


def _own_v1_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return CGROUP / "memory" / path.lstrip("/")
    return CGROUP / "memory"


def _number(path: Path) -> int:
    text = path.read_text().strip()
    return 1 << 62 if text == "max" else int(text)
