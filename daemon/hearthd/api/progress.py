"""The common answer of /api/create, /api/pull and /api/push: lines of progress, or only the last one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from hearthd.api.exchange import BARE_JSON, Exchange
from hearthd.api.ndjson import Lines
from hearthd.api.wire import ProgressResponse
from hearthd.errors import HearthError
from hearthd.registry.progress import Progress

SUCCESS = "success"


async def send(exchange: Exchange, steps: AsyncGenerator[Progress, None], stream: bool) -> None:
    """The answer in the form that the request wants. The work stops when the client leaves."""
    exchange.watch()
    async with aclosing(steps):
        await (_stream(exchange, steps) if stream else _last(exchange, steps))


async def _stream(exchange: Exchange, steps: AsyncGenerator[Progress, None]) -> None:
    lines = Lines(exchange)
    async for step in steps:
        if step.status != SUCCESS:
            await lines.send(_line(step))
    await lines.end(ProgressResponse(status=SUCCESS))


async def _last(exchange: Exchange, steps: AsyncGenerator[Progress, None]) -> None:
    last: ProgressResponse | None = None
    async for step in steps:
        last = _line(step)
    if last is None:
        raise HearthError("unexpected end of progress response")
    await exchange.json(last, content_type=BARE_JSON)


def _line(step: Progress) -> ProgressResponse:
    return ProgressResponse(status=step.status, digest=step.digest, total=step.total, completed=step.completed)
