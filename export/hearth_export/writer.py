"""Files of a variant on their way to the disk: streamed, synced, and visible only when whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import ExportError
from hearthd.store.durable import sync_directory, temp_path
from hearthd.store.removal import clear_abandoned

RESERVE_BYTES = 64 << 20  # disk left free for the rest of the system
MEMORY_SHARE = 4  # a file larger than this part of the memory leaves the page cache as it is written
SWEEP_BYTES = 64 << 20  # written between two sweeps of the page cache


class DataFile:
    """A file of `num_bytes` zeros, written at offsets, by several threads too. Its room on the disk is taken when it
    is made. A small one stays in the page cache, for who opens it next; a large one would push all else out of it."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self._sweeps = num_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_SHARE
        self._lock = threading.Lock()
        self._num_unswept, self._unswept, self._swept = 0, _NOTHING, _NOTHING
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
            if self._sweeps:
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(self._fd)

    def write(self, offset: int, values: NDArray[np.generic]) -> None:
        """Writes an array's bytes at `offset`."""
        view = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        span = _Span(offset, offset + len(view))
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written
        if self._sweeps:
            self._sweep(span)

    def _sweep(self, written: _Span) -> None:
        """Every so often: what was written since the last time goes to the disk, what went there then leaves memory.

        That is what Linux does when told twice that dirty pages are not needed.
        """
        with self._lock:
            self._num_unswept += written.stop - written.start
            self._unswept = self._unswept.around(written)
            if self._num_unswept < SWEEP_BYTES:
                return
            spans = (self._swept, self._unswept)
            self._num_unswept, self._unswept, self._swept = 0, _NOTHING, self._unswept
        for span in spans:
            if span.stop > span.start:
                os.posix_fadvise(self._fd, span.start, span.stop - span.start, os.POSIX_FADV_DONTNEED)


class _Span(NamedTuple):
    """Bytes start..stop of the file."""

    start: int
    stop: int

    def around(self, other: _Span) -> _Span:
        """The smallest span that holds both."""
        return _Span(min(self.start, other.start), max(self.stop, other.stop)) if self.stop else other


_NOTHING = _Span(0, 0)


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
