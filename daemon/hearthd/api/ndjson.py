"""A streamed answer: one JSON object a line, no blank lines, each line sent at once."""

from __future__ import annotations

import msgspec

from hearthd.api.exchange import Exchange

CONTENT_TYPE = b"application/x-ndjson"

_encoder = msgspec.json.Encoder()


class Lines:
    """Writes Structs as lines. The answer starts with the first line, so that an earlier failure keeps its status."""

    __slots__ = ("_buffer", "_exchange")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._buffer = bytearray(512)

    async def send(self, line: msgspec.Struct) -> None:
        """One line; waits while the client reads too slowly."""
        if not self._exchange.started:
            await self._start()
        await self._exchange.write(self._encode(line))

    async def end(self, line: msgspec.Struct) -> None:
        """The last line."""
        if not self._exchange.started:
            await self._start()
        await self._exchange.end(self._encode(line))

    async def _start(self) -> None:
        self._exchange.is_stream = True
        await self._exchange.start(200, (b"content-type", CONTENT_TYPE))

    def _encode(self, line: msgspec.Struct) -> bytes:
        buffer = self._buffer
        _encoder.encode_into(line, buffer)
        buffer += b"\n"
        return bytes(buffer)
