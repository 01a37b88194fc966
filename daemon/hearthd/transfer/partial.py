"""A blob on its way into `blobs/`: the sparse file, the journal of what it holds, what Ollama left of it.

    sha256-<hex>-partial          the bytes, at their places
    sha256-<hex>-partial.journal  "total <bytes>", then a line "<offset> <length>" for each finished extent
    sha256-<hex>-partial-<n>      Ollama's: {"N":0,"Offset":0,"Size":100000000,"Completed":4096}

Bytes are flushed to the disk before their extent is written down, so that a power cut leaves no extent
without its bytes; a last line that was cut off does not count. All methods block.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from hearthd.store.durable import FILE_MODE, explained, sync_directory, write_all, write_file
from hearthd.transfer.errors import TransferError
from hearthd.transfer.extents import Extent, Extents

MAX_JOURNAL_BYTES = 16 << 20  # far more than there are parts; it is written anew at every start
MAX_LEFTOVER_BYTES = 4 << 10

_LINE = re.compile(rb"(\d{1,18}) (\d{1,18})")


class _OllamaPart(msgspec.Struct, rename="pascal"):
    offset: int
    size: int
    completed: int


class Partial:
    """The unfinished file of one blob, locked for this process. Publish it, discard it or leave it."""

    def __init__(self, directory: Path, hex_digits: str, total: int) -> None:
        """Opens or makes the file. Raises StoreError, or TransferError where another process works on it."""
        self._directory = directory
        self._name = f"sha256-{hex_digits}"
        self._total = total
        self.path = directory / f"{self._name}-partial"
        self._journal = directory / f"{self._name}-partial.journal"
        with explained(directory):
            self.fd = self._open_locked()
            try:
                self.found = self._read()  # what earlier downloads left
                os.ftruncate(self.fd, self._total)
                self._journal_fd = self._start_journal()
            except BaseException:
                os.close(self.fd)
                raise

    def write(self, offset: int, chunks: Sequence[bytes | memoryview]) -> None:
        """Put the chunks at their place. Raises StoreError."""
        with explained(self._directory):
            written = os.pwritev(self.fd, chunks, offset)
            for chunk in _rest(chunks, written):
                while chunk:
                    count = os.pwrite(self.fd, chunk, offset + written)
                    written += count
                    chunk = chunk[count:]

    def commit(self, extents: Sequence[Extent]) -> None:
        """Write down that the extents, which are in the file, are finished. Raises StoreError."""
        lines = b"".join(b"%d %d\n" % (extent.start, extent.num_bytes) for extent in extents)
        with explained(self._directory):
            os.fdatasync(self.fd)
            write_all(self._journal_fd, lines)

    def publish(self) -> None:
        """Make the file the blob: flushed, under its own name, and nothing beside it. Raises StoreError."""
        with explained(self._directory):
            os.fsync(self.fd)
            self.path.rename(self._directory / self._name)
            sync_directory(self._directory)
            _remove(self._directory, self._name)
        self.close()

    def discard(self) -> None:
        """Remove the file and all beside it."""
        with explained(self._directory):
            _remove(self._directory, self._name)
        self.close()

    def leave(self, num_bytes: int) -> None:
        """Keep everything for another time; nothing where none of the bytes is there."""
        if self.fd >= 0 and not num_bytes:
            self.discard()
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self.fd, self._journal_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._journal_fd = -1

    def _open_locked(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            try:
                self._lock(fd)
                # between open and lock its last owner may have published it
                if self.path.exists() and os.path.samestat(os.fstat(fd), self.path.stat()):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return  # a file system without locks
            if error.errno != errno.EWOULDBLOCK:
                raise
            message = f"{self.path} is being downloaded by another process; wait for it, or end that process"
            raise TransferError(message) from error

    def _read(self) -> Extents:
        size = min(os.fstat(self.fd).st_size, self._total)
        noted = [*self._noted(), *self._ollamas()]
        return Extents(Extent(extent.start, min(extent.end, size)) for extent in noted)

    def _start_journal(self) -> int:
        lines = b"".join(b"%d %d\n" % (extent.start, extent.num_bytes) for extent in self.found)
        write_file(self._journal, b"total %d\n" % self._total + lines)
        return os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _noted(self) -> list[Extent]:
        try:
            with self._journal.open("rb") as file:
                first, *lines = file.read(MAX_JOURNAL_BYTES).split(b"\n")[:-1] or [b""]
        except FileNotFoundError:
            return []
        return list(_extents(lines)) if first == b"total %d" % self._total else []

    def _ollamas(self) -> list[Extent]:
        if os.fstat(self.fd).st_size != self._total:
            return []
        leftovers = _ollama_paths(self._directory, self._name)
        parts = (_ollama_extent(path, self._total) for path in leftovers)
        return [part for part in parts if part is not None]


def clear(directory: Path, hex_digits: str) -> None:
    """Remove all that belongs to an unfinished blob. Raises StoreError."""
    with explained(directory):
        _remove(directory, f"sha256-{hex_digits}")


def _remove(directory: Path, name: str) -> None:
    """The file goes first: notes without it mean nothing."""
    for path in (directory / f"{name}-partial", directory / f"{name}-partial.journal", *_ollama_paths(directory, name)):
        path.unlink(missing_ok=True)


def _ollama_paths(directory: Path, name: str) -> list[Path]:
    start = f"{name}-partial-"
    names = (entry.name for entry in os.scandir(directory) if entry.name.startswith(start))
    return [directory / name for name in names if name.removeprefix(start).isdigit()]


def _extents(lines: Sequence[bytes]) -> Iterator[Extent]:
    """What the lines say, up to the first one that is damaged."""
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            return
        yield Extent(int(match[1]), int(match[1]) + int(match[2]))


def _ollama_extent(path: Path, total: int) -> Extent | None:
    with suppress(OSError, msgspec.MsgspecError), path.open("rb") as file:
        part = msgspec.json.decode(file.read(MAX_LEFTOVER_BYTES), type=_OllamaPart)
        if 0 <= part.completed <= part.size and 0 <= part.offset <= total - part.size:
            return Extent(part.offset, part.offset + part.completed)
    return None


def _rest(chunks: Sequence[bytes | memoryview], num_bytes: int) -> Iterator[memoryview]:
    """What is left of the chunks behind the first `num_bytes`."""
    for chunk in chunks:
        if num_bytes < len(chunk):
            yield memoryview(chunk)[num_bytes:]
        num_bytes = max(0, num_bytes - len(chunk))
