"""The common end of /api/generate and /api/chat: from a prompt to a streamed or whole answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from hearthd.api.exchange import Exchange
from hearthd.api.ndjson import Lines
from hearthd.engine.frames import Done, Piece

Frames = AsyncGenerator[Piece | Done]
Chunk = Callable[[str], msgspec.Struct]  # a piece's text -> what goes on the wire
Final = Callable[[str, Done], msgspec.Struct]  # the remaining text and the counts -> the last object


async def send(exchange: Exchange, frames: Frames, stream: bool, chunk: Chunk, final: Final) -> None:
    """The answer in the form that the request wants. The runner stops when this ends early."""
    async with aclosing(frames):
        await (_stream(exchange, frames, chunk, final) if stream else _whole(exchange, frames, final))


async def _stream(exchange: Exchange, frames: Frames, chunk: Chunk, final: Final) -> None:
    """A line a piece, then the last object."""
    lines = Lines(exchange)
    async for frame in frames:
        if type(frame) is Piece:
            await lines.send(chunk(frame.text))
        elif type(frame) is Done:
            await lines.end(final("", frame))


async def _whole(exchange: Exchange, frames: Frames, final: Final) -> None:
    """One object with all the text."""
    texts = []
    async for frame in frames:
        if type(frame) is Piece:
            texts.append(frame.text)
        elif type(frame) is Done:
            await exchange.json(final("".join(texts), frame))


def done_reason(done: Done) -> str:
    """Why the text ends, for clients; "" where they have no word for it."""
    return done.reason if done.reason in ("stop", "length") else ""
