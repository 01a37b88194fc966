"""Content-addressed files: `blobs/sha256-<64 hex digits>`.

A blob is written under a temporary name while it is hashed, flushed to disk and renamed, so that a
file with a blob's name always holds that blob. A temporary file is locked by its writer: one whose
lock can be taken was left by a dead process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hearthd.errors import DigestMismatch, InvalidDigest, StoreError
from hearthd.store.durable import (
    FILE_MODE,
    TEMP_PREFIX,
    explained,
    free_bytes,
    sync_directory,
    temp_path,
    write_all,
)

CHUNK_BYTES = 1 << 20

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_FILE = re.compile(r"sha256[:-][0-9a-f]{64}")
_PARTIAL = re.compile(r"sha256-[0-9a-f]{64}-(partial(-\d+|\.journal)?|upload-[0-9a-f]{16})")

OnProgress = Callable[[int, int], None]  # bytes done, bytes in all


def digest_hex(digest: str) -> str:
    """The 64 lower-case digits of `sha256:<hex>` or `sha256-<hex>`. Raises InvalidDigest."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidDigest(digest)
    return match[1].lower()


def normal_digest(digest: str) -> str:
    """`sha256:<lower-case hex>`. Raises InvalidDigest."""
    return "sha256:" + digest_hex(digest)


def is_partial(name: str) -> bool:
    """Whether a file of this name in `blobs/` belongs to a download or an upload that can be resumed."""
    return _PARTIAL.fullmatch(name) is not None


class BlobWriter:
    """A blob in the making. Leave its `with` block normally to publish it, by an exception to drop it."""

    def __init__(self, store: BlobStore, expected: str | None) -> None:
        self._store = store
        self._expected = None if expected is None else normal_digest(expected)
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        self.digest = ""  # "sha256:<hex>" once published

    def __enter__(self) -> BlobWriter:
        self._path = temp_path(self._store.root)
        with explained(self._store.root):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with suppress(OSError):  # a file system without locks: the file just counts as in use
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. Raises StoreError where the disk refuses."""
        self._hash.update(data)
        with explained(self._store.root):
            write_all(self._fd, data)
        self.num_bytes += len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            os.close(self._fd)
            with suppress(FileNotFoundError):
                self._path.unlink()

    def _publish(self) -> None:
        digest = "sha256:" + self._hash.hexdigest()
        if self._expected not in (None, digest):
            raise DigestMismatch(str(self._expected), digest)
        if not self._store.has(digest):
            with explained(self._store.root):
                os.fsync(self._fd)
                self._path.rename(self._store.root / digest.replace(":", "-"))
                sync_directory(self._store.root)
        self.digest = digest


class BlobStore:
    """The files below `root`. A digest is `sha256:<hex>`; `sha256-<hex>` and upper case are understood."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises InvalidDigest."""
        hex_digits = digest_hex(digest)
        path = self.root / f"sha256-{hex_digits}"
        old = self.root / f"sha256:{hex_digits}"
        return old if not path.exists() and old.exists() else path

    def has(self, digest: str) -> bool:
        """Whether the blob is here. Raises InvalidDigest."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes of the blob. Raises StoreError where it is missing."""
        try:
            return self.path(digest).stat().st_size
        except OSError as error:
            raise _missing(digest, error) from error

    def partial_bytes(self, digest: str) -> int:
        """Bytes on disk of a download of the blob that was not finished; 0 where there is none."""
        try:
            return self.path(digest).with_name(f"sha256-{digest_hex(digest)}-partial").stat().st_blocks * 512
        except OSError:
            return 0

    def open(self, digest: str) -> BinaryIO:
        """The blob, to be read and closed. Raises StoreError where it is missing."""
        try:
            return self.path(digest).open("rb")
        except OSError as error:
            raise _missing(digest, error) from error

    def read(self, digest: str, max_bytes: int) -> bytes:
        """All of a small blob. Raises StoreError where it is missing or larger than `max_bytes`."""
        with self.open(digest) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise StoreError(f"blob {digest} has more than {max_bytes} bytes, too many for what it should be")
        return data

    def writer(self, expected: str | None = None) -> BlobWriter:
        """A blob to be written; with `expected`, anything else is refused with DigestMismatch."""
        return BlobWriter(self, expected)

    def put(self, data: bytes) -> str:
        """Store `data`; its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if not self.has(digest):
            with self.writer(digest) as writer:
                writer.write(data)
        return digest

    def import_file(self, source: Path, on_progress: OnProgress | None = None) -> str:
        """Copy the regular file `source` into the store; its digest.

        A copy and never a link: the file stays its owner's to change. Raises StoreError where it cannot
        be read or does not fit, or whatever `on_progress` raises, which ends the copy.
        """
        with _open_regular(source) as file, self.writer() as writer:
            num_bytes = os.fstat(file.fileno()).st_size
            self._check_room(source, num_bytes)
            buffer = memoryview(bytearray(CHUNK_BYTES))
            while count := _read_chunk(file, buffer, source):
                writer.write(buffer[:count])
                if on_progress is not None:
                    on_progress(writer.num_bytes, max(num_bytes, writer.num_bytes))
        return writer.digest

    def adopt(self, path: Path, on_progress: OnProgress | None = None) -> str:
        """Make the finished file `path`, which lies in `root` under a temporary name, a blob; its digest.

        The file is gone afterwards, whether renamed or the same as a blob that is here. Raises StoreError, or
        whatever `on_progress` raises, and leaves the file to the caller then.
        """
        with _open_regular(path) as file:
            digest = "sha256:" + _hash(file, path, on_progress)
            if not self.has(digest):
                with explained(self.root):
                    os.fsync(file.fileno())
                    path.rename(self.root / digest.replace(":", "-"))
                    sync_directory(self.root)
        path.unlink(missing_ok=True)
        return digest

    def remove(self, digest: str) -> None:
        """Delete the blob if it is here."""
        with explained(self.root):
            self.path(digest).unlink(missing_ok=True)

    def digests(self) -> list[str]:
        """Every blob here, sorted; temporary and foreign files are no blobs."""
        return sorted(normal_digest(name) for name in _names(self.root) if _FILE.fullmatch(name))

    def strangers(self) -> list[Path]:
        """Files whose names are no blob's, temporary ones excluded."""
        return [
            self.root / name
            for name in _names(self.root)
            if not _FILE.fullmatch(name) and not name.startswith(TEMP_PREFIX)
        ]

    def tidy(self) -> None:
        """Remove what dead writers left, also of downloads that ended, and give blobs of old stores their names."""
        for name in _names(self.root):
            path = self.root / name
            if self._is_left(name):
                path.unlink(missing_ok=True)
            elif name.startswith("sha256:") and _FILE.fullmatch(name):
                path.rename(self.root / name.replace(":", "-"))

    def _is_left(self, name: str) -> bool:
        """Whether the file belongs to a writer that died, or to a download whose blob is here."""
        if name.startswith(TEMP_PREFIX):
            return _is_abandoned(self.root / name)
        blob, mark, _ = name.partition("-partial")
        return bool(mark) and is_partial(name) and (self.root / blob).is_file()

    def _check_room(self, source: Path, num_bytes: int) -> None:
        free = free_bytes(self.root)
        if num_bytes > free:
            raise StoreError(
                f"{source} does not fit: it has {num_bytes} bytes, and {self.root} has {free} bytes free; make room"
            )


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(directory)]
    except FileNotFoundError:
        return []


def _missing(digest: str, error: OSError) -> StoreError:
    return StoreError(f"blob {digest} cannot be read: {error.strerror}; pull or create its model again")


def _open_regular(path: Path) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(f"{path} is not a regular file")
    return os.fdopen(fd, "rb", buffering=0)


def _read_chunk(file: BinaryIO, buffer: memoryview, source: Path) -> int:
    try:
        return file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
    except OSError as error:
        raise StoreError(f"{source} cannot be read: {error.strerror}") from error


def _hash(file: BinaryIO, path: Path, on_progress: OnProgress | None) -> str:
    """The sha256 of what is left of the file, in hexadecimal."""
    hashing, done, num_bytes = hashlib.sha256(), 0, os.fstat(file.fileno()).st_size
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while count := _read_chunk(file, buffer, path):
        hashing.update(buffer[:count])
        done += count
        if on_progress is not None:
            on_progress(done, max(num_bytes, done))
    return hashing.hexdigest()


def _is_abandoned(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
