"""Files of a variant on their way to the disk: streamed, synced, and visible only when whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import ExportError

RESERVE_BYTES = 64 << 20  # disk left free for the rest of the system


class DataFile:
    """A file written at offsets; reading beyond what was written gives zeros."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.truncate(self._fd, num_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            os.fsync(self._fd)
        os.close(self._fd)

    def write(self, offset: int, values: NDArray[np.generic]) -> None:
        """Writes an array's bytes at `offset`."""
        view = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written


def write_file(path: Path, content: bytes) -> None:
    """Creates `path` with `content`, synced."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Makes renames and new names in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def require_space(root: Path, num_bytes: int) -> None:
    """ExportError with needed and free bytes where the disk under `root` is too small."""
    free = shutil.disk_usage(root).free
    if free < num_bytes + RESERVE_BYTES:
        raise ExportError(
            f"not enough disk space under {root}: the converted model needs {num_bytes >> 20} MiB "
            f"and {RESERVE_BYTES >> 20} MiB must stay free, but {free >> 20} MiB are free"
        )


@contextlib.contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A fresh directory under `root` for a variant in the making; removed unless it was published.

    A full disk anywhere inside becomes an ExportError that says so.
    """
    root.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=root))
    stage.chmod(0o755)
    try:
        yield stage
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(root).free
        raise ExportError(f"the disk under {root} is full ({free >> 20} MiB free): make room and try again") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, target: Path) -> None:
    """Renames a finished directory to `target`, replacing what is there; durable when it returns."""
    sync_directory(stage)
    if target.exists():
        old = target.with_name(f".tmp-{os.getpid()}-replaced-{target.name}")
        target.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    stage.rename(target)
    sync_directory(target.parent)
