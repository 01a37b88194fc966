"""The bytes of a blob on their way out of this device."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.rate import Rate
from hearthd.transfer.threads import in_thread

STEP_BYTES = 256 << 10
HASH_STEP_BYTES = 1 << 20

OnSent = Callable[[int], None]
Steps = Callable[[int, int], AsyncIterator[bytes]]


class Outgoing:
    """A file that is read in steps, as fast as the rate and the line allow. Use it in `with`."""

    def __init__(self, path: str, size: int, rate: Rate, stall_timeout_s: float) -> None:
        self._path, self._size = path, size
        self._rate = rate
        self._stall_timeout_s = stall_timeout_s

    def __enter__(self) -> Outgoing:
        """Raises TransferError where the file cannot be read or has another size."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise TransferError(f"cannot read {self._path}: {error.strerror}") from error
        there = os.fstat(self._fd).st_size
        if there != self._size:
            os.close(self._fd)
            raise TransferError(f"{self._path} has {there} bytes, but the manifest says {self._size}; pull it again")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def part(self, offset: int, length: int, on_sent: OnSent, *, summed: bool = False) -> Part:
        """Bytes from `offset` on; `on_sent` hears the offset up to which they were given to the connection."""
        return Part(self._steps, offset, length, on_sent, self._stall_timeout_s, summed)

    async def sha256(self) -> str:
        """What the file really holds: "sha256:..."."""
        return await in_thread(_sha256, self._fd)

    async def _steps(self, offset: int, end: int) -> AsyncIterator[bytes]:
        while offset < end:
            num_bytes = self._rate.step_bytes(min(STEP_BYTES, end - offset))
            await self._rate.take(num_bytes)
            data = await in_thread(os.pread, self._fd, num_bytes, offset)
            if not data:
                raise TransferError(f"{self._path} became shorter while it was sent")
            yield data
            offset += len(data)


class Part:
    """A run of bytes for one request; called, it is the request's body, as often as that is tried."""

    def __init__(
        self, steps: Steps, offset: int, length: int, on_sent: OnSent, stall_timeout_s: float, summed: bool
    ) -> None:
        self.offset, self.length = offset, length
        self.md5 = ""  # in hexadecimal, once all of it was sent, where it is `summed`
        self._steps = steps
        self._on_sent = on_sent
        self._stall_timeout_s = stall_timeout_s
        self._summed = summed
        self._limit: asyncio.Timeout | None = None
        self._error: Exception | None = None

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.length

    @asynccontextmanager
    async def sending(self, host: str) -> AsyncIterator[None]:
        """Around the request. Raises Passing where the line takes no byte for too long, TransferError for the file."""
        self._error = None
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        except TimeoutError as error:
            raise Passing(f"{host} took no byte for {self._stall_timeout_s:g} s") from error
        except Passing as error:
            raise self._explained(error) from error
        finally:
            self._limit = None

    async def __call__(self) -> AsyncIterator[bytes]:
        md5 = hashlib.md5(usedforsecurity=False)
        offset = self.offset
        try:
            async for data in self._steps(offset, self.end):
                if self._summed:
                    md5.update(data)
                self._due_in(self._stall_timeout_s)
                yield data
                self._due_in(None)
                offset += len(data)
                self._on_sent(offset)
        except Exception as error:
            self._error = error  # the HTTP library makes it a lost connection
            raise
        self.md5 = md5.hexdigest()

    def _due_in(self, seconds: float | None) -> None:
        if self._limit is not None:
            self._limit.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    def _explained(self, error: Passing) -> TransferError:
        """The failure to read where that is why the request failed; else `error`."""
        if isinstance(self._error, TransferError):
            return self._error
        if isinstance(self._error, OSError):
            return TransferError(f"cannot read what is to be sent: {self._error.strerror}")
        return error


def _sha256(fd: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(fd, HASH_STEP_BYTES, offset):
        digest.update(data)
        offset += len(data)
    return f"sha256:{digest.hexdigest()}"
