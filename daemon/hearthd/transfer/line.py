"""The bytes of an answer straight from a plain connection into the file, in a thread of their own.

On a fast line the way through the event loop costs more than the line: copies, wake-ups, small pieces. Where
an answer is neither encrypted nor in chunks, what is left of its body after the headers is read from the
socket itself into one buffer that is used again and again. The connection cannot serve another request then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import aiohttp
from aiohttp import hdrs

from hearthd.transfer.extents import Extent
from hearthd.transfer.partial import Partial

BUFFER_BYTES = 512 << 10
WRITE_EVERY_S = 0.5  # on a slow line
MAX_LINES = 64

_threads = ThreadPoolExecutor(MAX_LINES, "line")


class Line:
    """The rest of a body, and where it goes. Use it in `with`: it owns a socket."""

    def __init__(self, response: aiohttp.ClientResponse, line: socket.socket, begun: bytes, extent: Extent) -> None:
        self._response = response
        self._socket = line
        self._begun = begun  # bytes that aiohttp had read already
        self._extent = extent
        self._stopped = False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._response.close()

    async def copy(self, partial: Partial, writing: threading.Lock, on_written: Callable[[Extent], None]) -> None:
        """Returns when the extent is in the file; `on_written` is called in the event loop for each piece.

        Raises aiohttp.ClientError, ConnectionError, TimeoutError for the line, StoreError for the file.
        """
        loop = asyncio.get_running_loop()

        def note(extent: Extent) -> None:
            loop.call_soon_threadsafe(on_written, extent)

        future = loop.run_in_executor(_threads, self._run, partial, writing, note)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stopped = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            await asyncio.wait([future])
            future.exception()  # seen
            raise

    def _run(self, partial: Partial, writing: threading.Lock, note: Callable[[Extent], None]) -> None:
        buffer = memoryview(bytearray(min(BUFFER_BYTES, self._extent.num_bytes)))
        position = self._extent.start + len(self._begun)
        if self._begun:
            self._write(partial, writing, Extent(self._extent.start, position), self._begun, note)
        while position < self._extent.end:
            count, ended = self._fill(buffer[: self._extent.end - position])
            if count:
                self._write(partial, writing, Extent(position, position + count), buffer[:count], note)
            position += count
            if ended:
                raise aiohttp.ClientPayloadError

    def _fill(self, buffer: memoryview) -> tuple[int, bool]:
        """Bytes read, and whether the line ended. Failures after the first byte are left to the next call."""
        count, begun_s = 0, time.monotonic()
        while count < len(buffer) and not self._stopped:
            try:
                received = self._socket.recv_into(buffer[count:])
            except OSError:
                if not count:
                    raise
                return count, False
            if not received:
                return count, True
            count += received
            if time.monotonic() - begun_s > WRITE_EVERY_S:
                break
        return count, self._stopped

    def _write(
        self,
        partial: Partial,
        writing: threading.Lock,
        extent: Extent,
        data: bytes | memoryview,
        note: Callable[[Extent], None],
    ) -> None:
        with writing:  # threads that write to one file at once only spin on its lock in the kernel
            partial.write(extent.start, [data])
        note(extent)


def plain_line(response: aiohttp.ClientResponse, extent: Extent, stall_timeout_s: float) -> Line | None:
    """The line of an answer whose body is `extent`; None where it must be read through aiohttp.

    From here on aiohttp reads nothing more of it.
    """
    connection = response.connection
    if connection is None or connection.transport is None or response.content_length != extent.num_bytes:
        return None
    transport = connection.transport
    found = transport.get_extra_info("socket")
    encrypted = transport.get_extra_info("sslcontext") is not None
    if found is None or encrypted or hdrs.TRANSFER_ENCODING in response.headers:
        return None
    begun = response.content.read_nowait()  # this may make aiohttp go on reading, so it comes first
    transport.pause_reading()
    line = socket.socket(fileno=os.dup(found.fileno()))
    line.settimeout(stall_timeout_s)
    return Line(response, line, begun, extent)
