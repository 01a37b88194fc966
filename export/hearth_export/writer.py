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
from hearthd.store.durable import sync_directory, temp_path
from hearthd.store.removal import clear_abandoned

RESERVE_BYTES = 64 << 20  # disk left free for the rest of the system


class DataFile:
    """A file of `num_bytes` zeros, written at offsets. Its room on the disk is taken when it is made."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _allocate(self._fd, num_bytes)
        except OSError:
            os.close(self._fd)
            raise

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


def _allocate(fd: int, num_bytes: int) -> None:
    os.truncate(fd, num_bytes)
    try:
        os.posix_fallocate(fd, 0, max(1, num_bytes))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot tell beforehand
            raise


def write_file(path: Path, content: bytes) -> None:
    """Creates `path` with `content`, synced."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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

    What conversions that died left there goes first. An OSError inside becomes an ExportError: all that can fail
    there is writing.
    """
    root.mkdir(parents=True, exist_ok=True)
    clear_abandoned(root)
    stage = Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=root))
    stage.chmod(0o755)
    try:
        yield stage
    except BrokenPipeError:
        raise  # nobody reads the progress any more
    except OSError as error:
        raise ExportError(_write_failure(root, error)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A fresh name beside `target` for a file in the making, which becomes `target`, durably, where nothing is raised.

    Whoever makes the file syncs it. An OSError inside becomes an ExportError: all that can fail there is writing.
    """
    temp = temp_path(target.parent)
    try:
        yield temp
        temp.rename(target)
        sync_directory(target.parent)
    except BrokenPipeError:
        raise  # nobody reads the progress any more
    except OSError as error:
        raise ExportError(_write_failure(target.parent, error)) from error
    finally:
        temp.unlink(missing_ok=True)


def _write_failure(root: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root).free
        return f"the disk under {root} is full ({free >> 20} MiB free): make room and try again"
    return f"the converted model cannot be written under {root}: {error.strerror}"


def publish(stage: Path, target: Path) -> None:
    """Renames a finished directory to `target`, replacing what is there; durable when it returns."""
    sync_directory(stage)
    old = target.with_name(f".tmp-{os.getpid()}-replaced-{target.name}")
    if target.exists():
        target.rename(old)
    stage.rename(target)
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)
