"""Removing what is not wanted any more; what cannot be removed stays, with a warning in the log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hearthd.store.durable import DIR_MODE, TEMP_PREFIX, temp_path

log = logging.getLogger(__name__)


_unfinished: set[Path] = set()  # of this process


@contextmanager
def unfinished(variant_root: Path) -> Iterator[Path]:
    """A new directory in `variant_root`, removed at the end of the block unless it was renamed."""
    directory = temp_path(variant_root)
    _unfinished.add(directory)
    try:
        directory.mkdir(mode=DIR_MODE, parents=True)
        yield directory
    finally:
        if directory.exists():
            remove_tree(directory)
        _unfinished.discard(directory)


def clear_abandoned(variant_root: Path) -> None:
    """Remove the unfinished variants that exporters now dead left in `variant_root`: `.tmp-<pid>-*`."""
    for directory in directories(variant_root, hidden=True):
        pid = directory.name.removeprefix(TEMP_PREFIX).partition("-")[0]
        if directory.name.startswith(TEMP_PREFIX) and directory not in _unfinished and not _is_exporter(pid):
            remove_tree(directory)


def clear_unwritten(paths: Iterable[Path]) -> None:
    """Remove those of the files `.tmp-<pid>-*` whose writers are dead."""
    for path in paths:
        pid = path.name.removeprefix(TEMP_PREFIX).partition("-")[0]
        if path.name.startswith(TEMP_PREFIX) and path.is_file() and not Path("/proc", pid or "-").exists():
            remove_file(path)


def directories(parent: Path, hidden: bool = False) -> list[Path]:
    """The directories in `parent` by name, links to directories included; none where `parent` is none."""
    try:
        entries = sorted(os.scandir(parent), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Path(entry.path) for entry in entries if entry.is_dir() and (hidden or not entry.name.startswith("."))]


def remove_tree(directory: Path) -> None:
    """Remove `directory` and all in it, following no link; what cannot be removed stays, with a warning."""
    for parent, directories, files in os.walk(directory, topdown=False):
        for name in files:
            remove_file(Path(parent) / name)
        for name in directories:
            _remove_directory(Path(parent) / name)
    _remove_directory(directory)


def _is_exporter(pid: str) -> bool:
    """Whether a process of that id runs `python -m hearth_export` or `hearth-export`."""
    try:
        words = Path(f"/proc/{int(pid)}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    return b"hearth_export" in words or any(word.endswith(b"/hearth-export") for word in words)


def remove_file(path: Path) -> None:
    """Remove the file if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)


def _remove_directory(path: Path) -> None:
    try:
        path.unlink() if path.is_symlink() else path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)


def remove_empty_below(root: Path) -> None:
    """Remove the empty directories below `root`, not `root` itself."""
    for parent, _, _ in os.walk(root, topdown=False):
        if Path(parent) != root:
            with suppress(OSError):  # not empty
                Path(parent).rmdir()
