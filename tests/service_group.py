"""A cgroup that is delegated as systemd delegates one to a service, for processes of tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))  # of version 2; the second beside version 1
INVOCATION = {"INVOCATION_ID": "0123456789abcdef0123456789abcdef"}
MOUNT = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
PRIVATE = f'echo 0 > "$0/cgroup.procs" && exec unshare -m -C sh -c \'{MOUNT}\' sh "$@"'
PATIENCE_S = 20.0  # for killed processes to be gone

_numbers = count()


class ServiceGroup:
    """The cgroup of a service, as this process sees it. What runs in it sees it as /sys/fs/cgroup."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrap(self) -> tuple[str, ...]:
        """What a command starts with to be the service's main process (systemd's ProtectControlGroups=private)."""
        return ("sh", "-c", PRIVATE, str(self.path))

    def pids(self, group: str) -> list[int]:
        """The processes of one of its cgroups."""
        return [int(pid) for pid in (self.path / group / "cgroup.procs").read_text().split()]

    def groups(self, parent: str = "") -> list[str]:
        """The names of the cgroups below it, or below one of these."""
        return sorted(path.name for path in (self.path / parent).iterdir() if path.is_dir())

    def kill(self) -> None:
        """Ends all processes."""
        (self.path / "cgroup.kill").write_text("1")


def missing() -> str:
    """Why there can be none here; "": nothing."""
    root = _root()
    if root is None:
        return "there are no cgroups of version 2"
    probe = root / f"hearth-probe-{os.getpid()}"
    try:
        probe.mkdir()
        os.setxattr(probe, "user.delegate", b"1")
    except OSError as error:
        return f"cgroups cannot be made: {error}"
    finally:
        with suppress(OSError):
            probe.rmdir()
    command = ["unshare", "-m", "-C", "mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no private cgroups: {said.stderr}" if said.returncode else ""


def _root() -> Path | None:
    return next((root for root in ROOTS if (root / "cgroup.controllers").exists()), None)


@contextmanager
def service_group(*, delegated: bool = True) -> Iterator[ServiceGroup]:
    """A new one; what runs in it ends with the block."""
    root = _root()
    assert root is not None
    path = root / f"hearth-test-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    group = ServiceGroup(path)
    try:
        if delegated:
            os.setxattr(path, "user.delegate", b"1")
        yield group
    finally:
        group.kill()
        deadline = time.monotonic() + PATIENCE_S
        while not _is_removed(path):
            assert time.monotonic() < deadline, f"{path} still has processes"
            time.sleep(0.02)


def _is_removed(path: Path) -> bool:
    for child in path.iterdir():
        if child.is_dir() and not _is_removed(child):
            return False
    try:
        path.rmdir()
    except OSError:
        return False
    return True
