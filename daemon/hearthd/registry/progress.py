"""What a client sees of a model being made, pulled or pushed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import msgspec


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer. The last one of a success has status "success"."""

    status: str
    digest: str = ""
    total: int = 0  # bytes
    completed: int = 0  # bytes


Report = Callable[[Progress], None]


async def steps_of(work: Callable[[Report], Coroutine[Any, Any, None]]) -> AsyncGenerator[Progress, None]:
    """What `work` reports, until its end; raises what it raises. Closing the iterator cancels it and waits for it."""
    pending: deque[Progress] = deque()
    wake = asyncio.Event()

    def report(progress: Progress) -> None:
        if pending and (pending[-1].status, pending[-1].digest) == (progress.status, progress.digest):
            pending.pop()  # the client is slow: the newer count says it all
        pending.append(progress)
        wake.set()

    task = asyncio.create_task(work(report))
    task.add_done_callback(lambda _: wake.set())
    try:
        while pending or not task.done():
            if pending:
                yield pending.popleft()
            else:
                wake.clear()
                await wake.wait()
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, whether or not it was raised above
