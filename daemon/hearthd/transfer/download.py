"""Fetching a blob: parallel ranges into a sparse file, journaled, hashed on the way, published when it is right."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from hearthd.errors import StoreError
from hearthd.transfer.blobs import BlobSource, Body
from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.extents import Extent, Extents, Parts
from hearthd.transfer.hashing import FrontHash
from hearthd.transfer.http import Http
from hearthd.transfer.line import plain_line
from hearthd.transfer.messages import MISMATCH, NO_SPACE, FetchBlob, Settings
from hearthd.transfer.partial import Partial, clear
from hearthd.transfer.retry import Retries
from hearthd.transfer.threads import in_thread

PART_BYTES = 16 << 20  # a request; small, so that the front moves steadily and hashing keeps up
WRITE_BYTES = 1 << 20
WRITE_EVERY_S = 0.5
MAX_CHUNKS = 512  # one pwritev takes at most 1024
COMMIT_EVERY_S = (0.2, 1.0)  # at least and at most; in between, a flush may take a fifth of the time
MAX_STREAMS = 16
MAX_SIZE = 1 << 62

Report = Callable[[int, int], None]  # bytes here, bytes in all

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


async def fetch_blob(http: Http, settings: Settings, job: FetchBlob, report: Report) -> None:
    """Returns when the blob is in its directory. Raises TransferError; what was fetched stays unless it says so."""
    match = _DIGEST.fullmatch(job.digest)
    if match is None or not 0 <= job.size < MAX_SIZE:
        raise TransferError(f"no blob can have the digest {job.digest[:100]!r} and {job.size} bytes")
    directory = Path(job.directory)
    try:
        if not await in_thread(_is_here, directory, match[1], job.size):
            await _download(http, settings, job, report, directory, match[1])
    except StoreError as error:
        raise await in_thread(_disk_error, error, directory, match[1]) from error
    report(job.size, job.size)


def _is_here(directory: Path, hex_digits: str, size: int) -> bool:
    path = directory / f"sha256-{hex_digits}"
    return path.is_file() and path.stat().st_size == size


def _disk_error(error: StoreError, directory: Path, hex_digits: str) -> TransferError:
    """A failure to write; on a full disk all of the blob is removed, so that others have the room."""
    if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in (errno.ENOSPC, errno.EDQUOT):
        return TransferError(str(error))
    try:
        clear(directory, hex_digits)
    except StoreError as second:
        return TransferError(f"{error}; {second}", NO_SPACE)
    return TransferError(str(error), NO_SPACE)


async def _download(
    http: Http, settings: Settings, job: FetchBlob, report: Report, directory: Path, hex_digits: str
) -> None:
    partial = await in_thread(Partial, directory, hex_digits, job.size)
    here = Extents(partial.found)
    try:
        async with _hashing(partial, job.size) as (digest, hashed):
            await Download(http, settings, job, report, partial, here, digest).run()
            await hashed.wait()
            got = _result(digest, partial)
        if got != hex_digits:
            await in_thread(partial.discard)
            sentence = "digest mismatch, file must be downloaded again"
            raise TransferError(f"{sentence}: want {job.digest}, got sha256:{got}", MISMATCH)
        await in_thread(partial.publish)
    finally:
        await in_thread(partial.leave, here.num_bytes)


@asynccontextmanager
async def _hashing(partial: Partial, total: int) -> AsyncGenerator[tuple[FrontHash, asyncio.Event], None]:
    """A digest of the file, and the event that it is ready."""
    hashed, loop = asyncio.Event(), asyncio.get_running_loop()
    digest = FrontHash(partial.fd, total, lambda: loop.call_soon_threadsafe(hashed.set))
    try:
        yield digest, hashed
    finally:
        await in_thread(digest.stop)


def _result(digest: FrontHash, partial: Partial) -> str:
    try:
        return digest.result()
    except OSError as error:
        raise TransferError(f"{partial.path} cannot be read: {error.strerror}") from error


class Download:
    """One blob's connections and what they have brought."""

    def __init__(
        self,
        http: Http,
        settings: Settings,
        job: FetchBlob,
        report: Report,
        partial: Partial,
        here: Extents,  # what is in the file; kept up to date
        digest: FrontHash,
    ) -> None:
        self._settings = settings
        self._job = job
        self._report = report
        self._partial = partial
        self._digest = digest
        self._source = BlobSource(http, job)
        self._here = here
        self._unnoted = Extents()  # in the file, not yet in the journal
        self._parts = Parts(here.holes(Extent(0, job.size)))
        self._num_workers = 0
        self._writing = threading.Lock()

    async def run(self) -> None:
        """Returns when all bytes are in the file. Raises TransferError, StoreError."""
        self._tell()
        try:
            async with asyncio.TaskGroup() as self._group:
                self._notes = self._group.create_task(self._keep_notes())
                self._start_worker()
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__
        finally:
            await self._note()

    def _start_worker(self) -> None:
        self._num_workers += 1
        self._group.create_task(self._work())

    def _start_others(self, *, is_plain: bool) -> None:
        """The first answer is here: where the registry gives ranges, more of them at once."""
        num_streams = max(1, min(self._settings.max_streams, MAX_STREAMS))
        if is_plain:  # each has a thread of its own, and more of them than cores are slower
            num_streams = min(num_streams, max(2, os.cpu_count() or 1))
        while self._source.ranged and self._parts and self._num_workers < num_streams:
            self._start_worker()

    async def _work(self) -> None:
        retries, seen_bytes = Retries(self._settings), self._here.num_bytes
        while (self._source.ranged or self._num_workers == 1) and (part := self._parts.take(PART_BYTES)):
            try:
                await self._fetch(part)
            except Passing as error:
                gained, seen_bytes = self._here.num_bytes > seen_bytes, self._here.num_bytes
                await self._pause(retries, error, gained)
        self._num_workers -= 1
        if not self._num_workers:
            self._notes.cancel()

    async def _pause(self, retries: Retries, error: Passing, gained: bool) -> None:
        try:
            await retries.pause(error, gained=gained)
        except TransferError as last:
            sentence = f"{last}; what has arrived is kept, and a new pull goes on from there"
            raise TransferError(sentence, last.reason, last.status) from last

    async def _fetch(self, part: Extent) -> None:
        """Fetch the part; where the registry gives no ranges, all that is missing, if no other worker is left."""
        wanted = [part]
        try:
            async with self._source.open(part) as body:
                if body.whole and self._num_workers > 1:
                    return
                if body.whole:
                    wanted += self._parts.take_all()
                await self._copy(body, wanted)
        finally:
            for extent in wanted:
                for hole in self._here.holes(extent):
                    self._parts.give_back(hole)

    async def _copy(self, body: Body, wanted: Sequence[Extent]) -> None:
        line = None
        if not body.whole and not self._settings.max_rate:
            line = plain_line(body.response, body.extent, self._settings.stall_timeout_s)
        self._start_others(is_plain=line is not None)
        if line is None:
            await self._copy_chunks(body, wanted)
            return
        with line:
            await line.copy(self._partial, self._writing, self._arrived)

    async def _copy_chunks(self, body: Body, wanted: Sequence[Extent]) -> None:
        strip, position = Strip(), body.extent.start
        try:
            async with aclosing(self._source.chunks(body)) as chunks:
                async for chunk in chunks:
                    for offset, piece in pieces(chunk, position, wanted):
                        if not strip.continues_at(offset):
                            await self._write(strip)
                        strip.add(offset, piece)
                    position += len(chunk)
                    if strip.due:
                        await self._write(strip)
        finally:
            await self._write(strip)

    async def _write(self, strip: Strip) -> None:
        extent, chunks = strip.take()
        if not chunks:
            return
        await in_thread(self._partial.write, extent.start, chunks)
        self._arrived(extent)

    def _arrived(self, extent: Extent) -> None:
        self._here.add(extent)
        self._unnoted.add(extent)
        self._tell()

    def _tell(self) -> None:
        self._digest.advance(self._here.front)
        self._report(self._here.num_bytes, self._job.size)

    async def _keep_notes(self) -> None:
        least_s, most_s = COMMIT_EVERY_S
        took_s = 0.0
        while True:
            await asyncio.sleep(min(most_s, max(least_s, 4 * took_s)))
            started_s = time.monotonic()
            await self._note()
            took_s = time.monotonic() - started_s

    async def _note(self) -> None:
        extents = list(self._unnoted)
        if extents:
            self._unnoted = Extents()
            await in_thread(self._partial.commit, extents)


class Strip:
    """Neighbouring bytes on their way from a connection to the file."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._offset = 0
        self._chunks: list[memoryview] = []
        self._num_bytes = 0
        self._since_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to write it."""
        full = self._num_bytes >= WRITE_BYTES or len(self._chunks) >= MAX_CHUNKS
        return full or time.monotonic() - self._since_s >= WRITE_EVERY_S

    def continues_at(self, offset: int) -> bool:
        """Whether bytes from `offset` can be added."""
        return not self._chunks or offset == self._offset + self._num_bytes

    def add(self, offset: int, chunk: memoryview) -> None:
        """Add bytes that continue it."""
        if not self._chunks:
            self._offset, self._since_s = offset, time.monotonic()
        self._chunks.append(chunk)
        self._num_bytes += len(chunk)

    def take(self) -> tuple[Extent, list[memoryview]]:
        """What it holds; it is empty afterwards."""
        extent, chunks = Extent(self._offset, self._offset + self._num_bytes), self._chunks
        self._start()
        return extent, chunks


def pieces(chunk: bytes, position: int, wanted: Sequence[Extent]) -> Iterator[tuple[int, memoryview]]:
    """The parts of `chunk`, whose first byte is the blob's byte `position`, that are wanted; each with its offset."""
    view = memoryview(chunk)
    for extent in wanted:
        start, end = max(extent.start, position), min(extent.end, position + len(chunk))
        if start < end:
            yield start, view[start - position : end - position]
