"""The cgroups of the service: the daemon in one, each process that it starts in one of its own, a cell.

A service whose cgroup is delegated to it (systemd's Delegate=, cgroup v2) is laid out like this:

    <unit>/daemon            this process; memory.min
    <unit>/runners/runner-1  a loaded model; memory.max
    <unit>/jobs/converter-2  a converter, packing, or what moves between this device and registries

So a runner that outgrows its limit ends alone, and what runners take is not taken from the daemon. Elsewhere there are
no cells, and all goes on without. https://systemd.io/CGROUP_DELEGATION,
https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

CGROUP, PROC = Path("/sys/fs/cgroup"), Path("/proc")
DAEMON, RUNNERS, JOBS = "daemon", "runners", "jobs"
CONTROLLERS = ("memory", "pids", "cpu")
OFF, _ = SWITCHES = ("cgroup_disable", "cgroup_enable")  # of the kernel's command line
MARKS = ("user.delegate", "trusted.delegate")  # that systemd puts on a delegated cgroup; the second is for root to read
DAEMON_BYTES = 64 << 20  # kept for the daemon: 1.5 times what it takes with 200 clients
JOB_WEIGHT = 20  # where there are too few processors; daemon and runners have 100
MAX_PIDS = max(256, 16 * (os.cpu_count() or 1))  # processes and threads of a cell
OOM_SCORE_ADJ = 500  # of -1000..1000: the kernel takes a child before the daemon

RAISE = f'{{ echo {OOM_SCORE_ADJ} > /proc/self/oom_score_adj; }} 2> /dev/null; exec "$@"'
JOIN = f'echo 0 > "$0/cgroup.procs"; {RAISE}'

NO_CELLS = "runners have no cgroups of their own"
NO_V2 = f"{NO_CELLS}: the cgroups of this system are not of version 2"
NOT_DELEGATED = f"{NO_CELLS}: hearth is no service that its cgroup is delegated to (Delegate=memory pids cpu)"
NOT_MADE = f"{NO_CELLS}: they could not be made when hearth was started"
NO_LIMITS = "runners have no limits of their own"
NO_CONTROLLER = f"{NO_LIMITS}: the memory controller is not delegated to hearth"
SWITCHED_OFF = (
    f"{NO_LIMITS}: this kernel was started without the memory controller; cgroup_enable=memory switches it on"
)


def kernel_has_memory(proc: Path = PROC) -> bool:
    """Whether the kernel can limit the memory of a cgroup; Raspberry Pi OS starts it so that it cannot.

    cgroups(7) tells of /proc/cgroups, where a controller that version 1 does not have may be missing; then the
    kernel's command line counts, whose last word on it is in force.
    """
    rows = (line.split() for line in _text(proc / "cgroups").splitlines())
    if row := next((row for row in rows if row[:1] == ["memory"]), None):
        return row[-1] == "1"
    words = (word.partition("=") for word in _words(proc / "cmdline"))
    said = [key for key, _, names in words if key in SWITCHES and "memory" in names.split(",")]
    return said[-1:] != [OFF]


def _why_no_limits() -> str:
    return NO_CONTROLLER if kernel_has_memory() else SWITCHED_OFF


# the layout


def enter() -> None:
    """Where this process is a service that its cgroup is delegated to, lays that out and moves into `daemon`.

    Then it begins anew as the same process, so that its memory counts for `daemon`. To be called before anything is
    imported or opened. Elsewhere, and where it cannot be done, nothing happens: see `find`.
    """
    if "INVOCATION_ID" not in os.environ:
        return
    with suppress(OSError):
        own = _own_group()
        unit = _unit_of(own)
        if own is None or unit is None or (own != unit and (unit / JOBS).is_dir()):
            return
        if own == unit:
            if (unit / "cgroup.procs").read_text().split() != [str(os.getpid())]:
                return
            (unit / DAEMON).mkdir(exist_ok=True)
            (unit / DAEMON / "cgroup.procs").write_text("0")
        _lay_out(unit)
        if own == unit:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _lay_out(unit: Path) -> None:
    _enable(unit)
    _write(unit / DAEMON / "memory.min", DAEMON_BYTES)
    for name in (RUNNERS, JOBS):
        (unit / name).mkdir(exist_ok=True)
        _enable(unit / name)
    _write(unit / JOBS / "cpu.weight", JOB_WEIGHT)


def _enable(group: Path) -> None:
    for controller in CONTROLLERS:  # one by one: what there is
        _write(group / "cgroup.subtree_control", f"+{controller}")


def _own_group() -> Path | None:
    """The cgroup of this process as far as it is seen from here; None: there is no version 2."""
    with suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            group = CGROUP / line.removeprefix("0::").lstrip("/")
            if line.startswith("0::") and ".." not in group.parts and (group / "cgroup.controllers").exists():
                return group
    return None


def _unit_of(own: Path | None) -> Path | None:
    """The cgroup that is delegated to this process; None: none."""
    if own is not None and own.name == DAEMON and own != CGROUP and _is_delegated(own.parent):
        return own.parent
    return own if own is not None and _is_delegated(own) else None


def _is_delegated(group: Path) -> bool:
    for mark in MARKS:
        with suppress(OSError):
            if os.getxattr(group, mark) == b"1":
                return True
    return False


# cells


class Cell:
    """The cgroup of one process and its descendants."""

    def __init__(self, cage: Cage, group: Path | None, limit_bytes: int | None) -> None:
        self._cage = cage
        self._group = group
        self.limit_bytes = limit_bytes  # None: there is no limit
        self.outgrown = False  # once it is closed: the kernel killed what was in it because of the limit

    def wrap(self, command: Sequence[str]) -> tuple[str, ...]:
        """The command in this cell; the kernel takes it before the daemon."""
        if not os.access(command[0], os.X_OK):  # fails as it would without
            return tuple(command)
        return ("/bin/sh", "-c", *((RAISE, "sh") if self._group is None else (JOIN, str(self._group))), *command)

    @property
    def num_limit_kills(self) -> int:
        """Processes that the kernel has killed because of the limit.

        Where somebody else was short of memory, there are no events `oom` in here.
        """
        events = {} if self._group is None else _fields(self._group / "memory.events")
        return events.get("oom_kill", 0) if events.get("oom") else 0

    def close(self) -> None:
        """Kills what still runs in it, and removes it."""
        if self._group is not None:
            self.outgrown = self.num_limit_kills > 0
            self._cage.leave(self, self._group)
            self._group = None


class Cage:
    """The cells of this daemon."""

    def __init__(self, unit: Path | None, why_not: str = "") -> None:
        """`unit`: the cgroup that is laid out; None: there is none."""
        self._unit = unit
        self._has_limits = unit is not None and _has_memory(unit / RUNNERS)
        self.why_not = why_not or ("" if self._has_limits else _why_no_limits())  # what is missing; "": nothing
        self._numbers = count(1)
        self._cells: set[Cell] = set()
        self._left = [] if unit is None else [*_children(unit / RUNNERS), *_children(unit / JOBS)]  # to be removed
        self._num_limit_kills = 0  # in cells that are gone

    def cell(self, name: str, limit_bytes: int | None = None, *, among: str = JOBS) -> Cell:
        """A cell for a new process, whose memory is limited where it can be. `among` is RUNNERS or JOBS.

        Where there can be no cell, the process runs without.
        """
        group = None if self._unit is None else self._made(self._unit / among, name)
        if group is None or not self._has_limits:
            limit_bytes = None
        if group is not None:
            _set_up(group, limit_bytes)
        cell = Cell(self, group, limit_bytes)
        if group is not None:
            self._cells.add(cell)
        return cell

    def _made(self, parent: Path, name: str) -> Path | None:
        self._sweep()
        try:
            group = next(group for number in self._numbers if not (group := parent / f"{name}-{number}").exists())
            group.mkdir()
        except OSError as error:
            import logging  # not before the program begins anew

            logging.getLogger(__name__).warning("no cgroup for a %s: %s", name, error)
            return None
        return group

    def leave(self, cell: Cell, group: Path) -> None:
        """The cell is no longer needed."""
        self._num_limit_kills += cell.num_limit_kills
        self._cells.discard(cell)
        self._left.append(group)
        self._sweep()

    def _sweep(self) -> None:
        """What is being killed cannot be removed at once."""
        self._left = [group for group in self._left if not _removed(group)]

    @property
    def num_limit_kills(self) -> int:
        """Processes that the kernel has killed because of the limit of their cell: no sign that others are short."""
        return self._num_limit_kills + sum(cell.num_limit_kills for cell in self._cells)


def find() -> Cage:
    """The cage that `enter` made. Never fails."""
    own = _own_group()
    if own is None:
        return Cage(None, NO_V2)
    unit = _unit_of(own)
    if unit is None:
        return Cage(None, NOT_DELEGATED)
    return Cage(unit) if own != unit and (unit / JOBS).is_dir() else Cage(None, NOT_MADE)


@lru_cache(maxsize=1)
def current() -> Cage:
    """The cage of this process, looked for once."""
    return find()


def _set_up(group: Path, limit_bytes: int | None) -> None:
    if limit_bytes is not None:
        _write(group / "memory.max", limit_bytes)
        _write(group / "memory.swap.max", limit_bytes)  # enough to swap it out whole, and no more
    _write(group / "memory.oom.group", 1)
    _write(group / "pids.max", MAX_PIDS)


def _removed(group: Path) -> bool:
    """Whether it is gone; else what is in it is being killed."""
    if _remove(group):
        return True
    if not _write(group / "cgroup.kill", 1):  # Linux 5.14
        for pid in _words(group / "cgroup.procs"):
            with suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
    return _remove(group)


def _remove(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _children(group: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in group.iterdir() if path.is_dir())


def _has_memory(group: Path) -> bool:
    return "memory" in _words(group / "cgroup.subtree_control")


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """What is in the file; "" where it cannot be read."""
    with suppress(OSError):
        return path.read_text()
    return ""


def _fields(path: Path) -> dict[str, int]:
    words = _words(path)
    with suppress(ValueError):
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return {}


def _write(path: Path, value: int | str) -> bool:
    """Whether it could be."""
    try:
        path.write_text(f"{value}")
    except OSError:
        return False
    return True
