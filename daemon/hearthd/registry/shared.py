"""One piece of work that several callers follow, and that ends when the last of them leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Publish = Callable[[T], None]
Work = Callable[[Publish[T]], Coroutine[Any, Any, None]]


class Shared(Generic[K, T]):
    """Work by key. Callers with the same key at the same time share one run of it."""

    def __init__(self) -> None:
        self._running: dict[K, _Run[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._running and not self._running[key].done

    async def follow(self, key: K, work: Work[T]) -> AsyncGenerator[T, None]:
        """Start `work` unless it runs under `key`; what comes is what it publishes, until its end.

        A caller that is slow to take misses the older ones, never the last. Raises what the work raises. The
        last caller to leave cancels the work and waits for its end.
        """
        run = self._running.get(key)
        if run is None or run.done:
            run = self._running[key] = _Run(work)
        run.num_followers += 1
        try:
            async for value in run.values():
                yield value
        finally:
            run.num_followers -= 1
            if not run.num_followers:
                if self._running.get(key) is run:
                    del self._running[key]
                await run.stop()


class _Run(Generic[T]):
    """The work, while somebody follows it."""

    def __init__(self, work: Work[T]) -> None:
        self.num_followers = 0
        self._num_published = 0
        self._latest: T
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(work(self._publish))
        self._task.add_done_callback(lambda _: self._wake())

    @property
    def done(self) -> bool:
        """Whether it ended, though a slow follower has not seen it."""
        return self._task.done()

    async def values(self) -> AsyncGenerator[T, None]:
        num_seen = 0
        while True:
            if self._num_published > num_seen:
                num_seen = self._num_published
                yield self._latest
            elif self._task.done():
                break
            else:
                await self._changed.wait()
        await self._task  # raises what it raised

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # seen: a follower that stayed was told

    def _publish(self, value: T) -> None:
        self._latest = value
        self._num_published += 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
