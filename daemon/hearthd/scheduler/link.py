"""The daemon's end of the socket to a runner: bytes in, frames out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from msgspec import DecodeError

from hearthd.engine.frames import MAX_FRAME_BYTES, PREFIX_BYTES, FromRunner, from_runner_decoder

Take = Callable[[FromRunner], None]


class Link(asyncio.Protocol):
    """Cuts the stream into frames for those whom `connect` names."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_open = False
        self._transport: asyncio.Transport | None = None
        self._take: Take = lambda frame: None
        self._lost: Callable[[], None] = lambda: None
        self._broken: Callable[[str], None] = lambda why: None

    def connect(self, take: Take, lost: Callable[[], None], broken: Callable[[str], None]) -> None:
        """`take` gets each frame, `lost` is told of the stream's end, `broken` once why it makes no sense.

        A runner says nothing before it was sent Load, so this may follow its start.
        """
        self._take, self._lost, self._broken = take, lost, broken
        if self._transport is None:
            lost()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._is_open = False
        self._lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while self._is_open and len(buffer) - start >= PREFIX_BYTES:
            body = start + PREFIX_BYTES
            end = body + int.from_bytes(buffer[start:body], "little")
            if end - body > MAX_FRAME_BYTES:
                return self.refuse(f"{end - body} bytes where {MAX_FRAME_BYTES} are the most")
            if len(buffer) < end:
                break
            try:
                frame = from_runner_decoder.decode(bytes(buffer[body:end]))
            except DecodeError as error:
                return self.refuse(str(error))
            self._take(frame)
            start = end
        del buffer[:start]

    def refuse(self, why: str) -> None:
        """Takes nothing more from this runner."""
        if self._is_open:
            self._is_open = False
            self._buffer.clear()
            self._broken(why)
