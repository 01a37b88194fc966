"""Who may read and write what: this process, or the user that the service runs as when root asks."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hearthd.service import USER


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the system. Only the nine bits of a mode are looked at, no access control list."""

    name: str
    uid: int
    gids: tuple[int, ...]

    def may(self, path: Path, mode: int) -> bool:
        """As access(2): all of R_OK, W_OK and X_OK that are in `mode`. Asked by root, who may anything himself."""
        try:
            status = path.stat()
        except OSError:
            return False
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.gids else 0
        return (status.st_mode >> shift) & mode == mode and os.access(path, mode)  # a read-only file system


def service_account() -> Account | None:
    """The service's user; None where there is none, or where this process is not root and so cannot tell."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return None
    return Account(user.pw_name, user.pw_uid, tuple(os.getgrouplist(user.pw_name, user.pw_gid)))


def may(path: Path, mode: int, account: Account | None) -> bool:
    """Whether the account, or this process where there is none, has access to what is there."""
    return account.may(path, mode) if account else os.access(path, mode, effective_ids=True)


def is_open(directory: Path, mode: int, account: Account | None) -> bool:
    """Whether it is a directory that can be entered, and read or written as `mode` says."""
    return may(directory, mode | os.X_OK, account) and directory.is_dir()


def first_closed(root: Path, account: Account | None) -> Path | None:
    """The first directory or file, `root` and what lies above it included, that cannot be read; None: all can."""
    above = next((path for path in reversed(root.parents) if not may(path, os.X_OK, account)), None)
    return above or next((path for path in _below(root) if not _is_readable(path, account)), None)


def _is_readable(path: Path, account: Account | None) -> bool:
    return path.is_symlink() or may(path, os.R_OK | (os.X_OK if path.is_dir() else 0), account)


def _below(root: Path) -> Iterator[Path]:
    yield root
    for parent, directories, files in os.walk(root):
        yield from (Path(parent, name) for name in (*directories, *files))
