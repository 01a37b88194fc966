"""Blobs: what a client uploads before it creates a model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from hearthd.api.exchange import Exchange
from hearthd.api.services import Services
from hearthd.errors import NotFound
from hearthd.threads import in_thread

_PART_BYTES = 1 << 20


async def check(services: Services, exchange: Exchange) -> None:
    """200 where the blob is here, 404 where not."""
    digest = exchange.tail
    if not services.store.blobs.has(digest):
        raise NotFound(f'blob "{digest}" not found')
    await exchange.empty(200)


async def upload(services: Services, exchange: Exchange) -> None:
    """Store the body under the digest it claims: 201, or 200 where it was here before."""
    blobs = services.store.blobs
    if blobs.has(exchange.tail):
        await exchange.empty(200)
        return
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(blobs.writer(exchange.tail))
        async for part in _gathered(exchange):
            await in_thread(partial(writer.write, part))
        await in_thread(stack.close)  # the flush to disk may take seconds
    await exchange.empty(201)


async def _gathered(exchange: Exchange) -> AsyncIterator[bytearray]:
    """The body in parts that are worth a thread's while."""
    part = bytearray()
    async for chunk in exchange.chunks():
        part += chunk
        if len(part) >= _PART_BYTES:
            yield part
            part = bytearray()
    yield part
