"""The common end of /api/generate and /api/chat: from a prompt to a streamed or whole answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Protocol

import msgspec

from hearthd.api.exchange import Exchange
from hearthd.api.ndjson import Lines
from hearthd.api.wire import Logprob, TokenLogprob
from hearthd.engine import frames
from hearthd.engine.frames import Done, Piece
from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.speech import AnswerParser, Part

Frames = AsyncGenerator[Piece | Done]


class Reply(Protocol):
    """The wire objects of one answer."""

    def chunk(self, part: Part, logprobs: list[Logprob]) -> msgspec.Struct:
        """What a part of the answer looks like."""

    def final(self, part: Part, logprobs: list[Logprob], done: Done) -> msgspec.Struct:
        """The last object, with the rest of the answer and the counts."""


async def send(exchange: Exchange, frames: Frames, parser: AnswerParser, reply: Reply, *, stream: bool) -> None:
    """The answer in the form that the request wants. The runner stops when this ends early."""
    async with aclosing(frames):
        await (_stream if stream else _whole)(exchange, frames, parser, reply)


async def _stream(exchange: Exchange, frames: Frames, parser: AnswerParser, reply: Reply) -> None:
    """A line a piece, one a call, then the last object."""
    lines = Lines(exchange)
    async for frame in frames:
        if type(frame) is Piece:
            part = parser.feed(frame.text)
            for line in _lines(part, _logprobs(frame), reply):
                await lines.send(line)
        elif type(frame) is Done:
            rest = parser.flush()
            for line in _lines(Part(calls=rest.calls), [], reply):
                await lines.send(line)
            await lines.end(reply.final(Part(rest.thinking, rest.content), [], frame))


def _lines(part: Part, logprobs: list[Logprob], reply: Reply) -> Iterator[msgspec.Struct]:
    """Text first, then each call by itself; a piece that says nothing yet makes no line, unless it has logprobs."""
    if part.content or part.thinking or logprobs:
        yield reply.chunk(Part(part.thinking, part.content), logprobs)
    for call in part.calls:
        yield reply.chunk(Part(calls=[call]), [])


async def _whole(exchange: Exchange, frames: Frames, parser: AnswerParser, reply: Reply) -> None:
    """One object with everything."""
    thinking: list[str] = []
    content: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[Logprob] = []
    async for frame in frames:
        part = parser.feed(frame.text) if type(frame) is Piece else parser.flush()
        thinking.append(part.thinking)
        content.append(part.content)
        calls += part.calls
        if type(frame) is Piece:
            logprobs += _logprobs(frame)
        elif type(frame) is Done:
            whole = Part("".join(thinking), "".join(content), calls)
            await exchange.json(reply.final(whole, logprobs, frame))


def _logprobs(piece: Piece) -> list[Logprob]:
    return [_logprob(logprob) for logprob in piece.logprobs] if piece.logprobs else []


def _logprob(logprob: frames.Logprob) -> Logprob:
    top = [TokenLogprob(token=other.token, logprob=other.logprob, bytes=other.bytes) for other in logprob.top]
    return Logprob(token=logprob.token, logprob=logprob.logprob, bytes=logprob.bytes, top_logprobs=top)


def done_reason(done: Done) -> str:
    """Why the text ends, for clients; "" where they have no word for it."""
    return done.reason if done.reason in ("stop", "length") else ""
