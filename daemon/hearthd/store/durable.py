"""Files that are on disk whole or not at all, power cuts included."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hearthd.errors import StoreError

TEMP_PREFIX = ".tmp-"
FILE_MODE = 0o644
DIR_MODE = 0o755


def temp_path(directory: Path) -> Path:
    """A name in `directory` that nobody else uses, for a file that is not finished."""
    return directory / f"{TEMP_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` whole or not at all, power cuts included."""
    temp = temp_path(path.parent)
    with explained(path.parent):
        _make_directories(path.parent)
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(fd, data)
            os.fsync(fd)
            temp.rename(path)
            sync_directory(path.parent)
        finally:
            os.close(fd)
            temp.unlink(missing_ok=True)


def _make_directories(directory: Path) -> None:
    """Make `directory` and its parents, each flushed in its own parent."""
    if not directory.is_dir():
        _make_directories(directory.parent)
        directory.mkdir(mode=DIR_MODE, exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Flush `directory`, so that a rename in it survives a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_directory(finished: Path, target: Path) -> None:
    """Rename a finished directory to `target`, on the same file system, replacing what is there; durable at the end.

    What is there goes after the new one has its name. On overlayfs, whose lower layers have no renames, it goes before:
    a power cut in between leaves neither, which for what is made again from a model's blobs costs time only.
    """
    sync_directory(finished)
    aside = temp_path(target.parent)
    if target.exists():
        try:
            target.rename(aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.rmtree(target)
    finished.rename(target)
    sync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte: one write() may take fewer than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def free_bytes(directory: Path) -> int:
    """Bytes that this process may still write where `directory` is, or is to be."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn a failure to write below `directory` into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left in {directory}: {free_bytes(directory)} bytes are free; make room and try again"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            message = f"{directory} is not writable: {error.strerror}"
        else:
            message = f"{directory} cannot be written: {error.strerror}"
        raise StoreError(message) from error
