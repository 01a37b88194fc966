"""Who is loaded and who waits. One event loop, no threads, no locks.

A request for a model that is loaded gets it at once. All others stand in one queue; its head decides
what is loaded next, and one load runs at a time. A load that nobody waits for any more is aborted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hearthd.errors import HearthError, LoadFailed, Overloaded
from hearthd.memory import read_memory
from hearthd.scheduler.lease import (
    FOREVER_NS,
    LONGEST_TIMER_NS,
    Lease,
    LoadedModel,
    LoadedStatus,
    LoadOptions,
    load_key,
)
from hearthd.scheduler.loading import LoadDefaults, Loader, Prepare, Spawn
from hearthd.scheduler.runner import ProcessRunner
from hearthd.scheduler.trim import release_freed
from hearthd.store.store import StoredModel

log = logging.getLogger(__name__)

BUSY = "server busy, please try again.  maximum pending requests exceeded"
STOPPING = "the server is stopping"


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request in the queue."""

    key: str
    model: StoredModel
    options: LoadOptions
    keep_alive_ns: int | None
    granted: asyncio.Future[LoadedModel] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def shares_load_of(self, other: _Ticket) -> bool:
        """Whether the model loaded for `other` will serve this one too."""
        return self.key == other.key and self.options.met_by(other.options)


class Scheduler:
    """Loads, keeps and unloads models.

    `prepare` gives the directory of a runnable variant, `spawn` a runner for it, `available` the free
    memory in bytes or None, `spare` what of it models beside others must leave. `keep_alive_ns` and
    `num_ctx` are the defaults for requests that do not say.
    `accelerated` says whether num_gpu can make a difference on this machine.
    """

    def __init__(
        self,
        prepare: Prepare,
        *,
        spawn: Spawn = ProcessRunner.start,
        keep_alive_ns: int = 300 * 1_000_000_000,
        num_ctx: int = 4096,
        num_threads: int = 0,
        num_parallel: int = 1,
        kv_type: str = "",
        prefix_dir: str = "",
        prefix_bytes: int = 0,
        max_queue: int = 512,
        max_loaded: int = 3,
        memory_bytes: int = 0,
        accelerated: bool = False,
        spare: Callable[[], int] = lambda: 0,
        available: Callable[[], int | None] = lambda: read_memory().available_bytes or None,
    ) -> None:
        self._keep_alive_ns = _normal(keep_alive_ns)
        self._max_queue = max_queue
        self._loader = Loader(
            prepare,
            spawn,
            available,
            LoadDefaults(
                keep_alive_ns=self._keep_alive_ns,
                num_ctx=num_ctx,
                num_threads=num_threads,
                num_parallel=num_parallel,
                kv_type=kv_type,
                prefix_dir=prefix_dir,
                prefix_bytes=prefix_bytes,
                max_loaded=max_loaded,
                memory_bytes=memory_bytes,
                accelerated=accelerated,
            ),
            spare,
        )
        self._models: dict[str, LoadedModel] = {}
        self._queue: list[_Ticket] = []
        self._worker: asyncio.Task[None] | None = None
        self._loading: tuple[_Ticket, asyncio.Task[LoadedModel]] | None = None
        self._background: set[asyncio.Task[None]] = set()  # unloads and watches
        self._unloading: set[asyncio.Task[None]] = set()
        self._draining = False

    # leases

    @asynccontextmanager
    async def lease(self, model: StoredModel, options: LoadOptions, keep_alive_ns: int | None) -> AsyncIterator[Lease]:
        """The model, loaded, for as long as the block runs. Its keep-alive clock starts when the last block ends.

        `keep_alive_ns` None leaves a loaded model's duration as it is, negative is for ever. Raises Overloaded
        (queue full, stopping), LoadFailed, RunnerDied (while loading), and what `prepare` raises.
        """
        started_ns = time.monotonic_ns()
        loaded = await self._acquire(model, options, keep_alive_ns)
        try:
            yield Lease(loaded.runner, model, time.monotonic_ns() - started_ns)
        finally:
            self._release(loaded)

    async def _acquire(self, model: StoredModel, options: LoadOptions, keep_alive_ns: int | None) -> LoadedModel:
        if self._draining:
            raise Overloaded(STOPPING)
        key = load_key(model)
        loaded = self._models.get(key)
        if loaded is not None and loaded.serves(options):
            return self._use(loaded, keep_alive_ns)
        ticket = self._enqueue(_Ticket(key, model, options, keep_alive_ns))
        try:
            return await ticket.granted
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise

    def _use(self, loaded: LoadedModel, keep_alive_ns: int | None) -> LoadedModel:
        if loaded.num_users > self._max_queue:
            raise Overloaded(BUSY)
        loaded.num_users += 1
        loaded.stop_timer()
        if keep_alive_ns is not None:
            loaded.keep_alive_ns = _normal(keep_alive_ns)
        return loaded

    def _release(self, loaded: LoadedModel) -> None:
        loaded.num_users -= 1
        if not loaded.num_users and self._models.get(loaded.key) is loaded:
            self._rest(loaded)

    def _rest(self, loaded: LoadedModel) -> None:
        """Starts the clock of a model that nobody uses."""
        loaded.stop_timer()
        if loaded.leaving or self._draining or loaded.keep_alive_ns == 0:
            self._unload(loaded, "unload")
        elif loaded.keep_alive_ns <= LONGEST_TIMER_NS:
            delay_s = loaded.keep_alive_ns / 1e9
            loaded.expires_at_ns = time.time_ns() + loaded.keep_alive_ns
            loaded.timer = asyncio.get_running_loop().call_later(delay_s, self._unload, loaded, "expire")

    # the queue

    def _enqueue(self, ticket: _Ticket) -> _Ticket:
        if len(self._queue) >= self._max_queue:
            raise Overloaded(BUSY)
        self._queue.append(ticket)
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._serve_queue())
        return ticket

    def _withdraw(self, ticket: _Ticket) -> None:
        """Its client is gone."""
        if ticket in self._queue:
            self._queue.remove(ticket)
            if self._loading is not None and not any(other.shares_load_of(self._loading[0]) for other in self._queue):
                self._loading[1].cancel()
        elif ticket.granted.done() and not ticket.granted.cancelled() and ticket.granted.exception() is None:
            self._release(ticket.granted.result())

    async def _serve_queue(self) -> None:
        while self._queue:
            head = self._queue[0]
            loaded = self._models.get(head.key)
            if loaded is not None and loaded.serves(head.options):
                self._grant(head, loaded)
            else:
                await self._load_for(head)
        self._worker = None

    async def _load_for(self, head: _Ticket) -> None:
        """Loads what the head of the queue wants, and answers all who want the same."""
        task = asyncio.get_running_loop().create_task(self._load(head))
        self._loading = (head, task)
        try:
            await asyncio.wait([task])
        finally:
            self._loading = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            return self._fail(head, error)
        loaded = task.result()
        self._models[loaded.key] = loaded
        self._start(self._background, self._watch(loaded))
        for ticket in self._sharing(head):
            self._grant(ticket, loaded)
        if not loaded.num_users:
            self._rest(loaded)

    def _sharing(self, head: _Ticket) -> list[_Ticket]:
        """Those in the queue who want what `head` wants, itself included."""
        return [ticket for ticket in self._queue if ticket is head or ticket.shares_load_of(head)]

    def _grant(self, ticket: _Ticket, loaded: LoadedModel) -> None:
        self._queue.remove(ticket)
        if ticket.granted.done():
            return
        try:
            ticket.granted.set_result(self._use(loaded, ticket.keep_alive_ns))
        except Overloaded as error:
            ticket.granted.set_exception(error)

    def _fail(self, head: _Ticket, error: BaseException) -> None:
        if not isinstance(error, HearthError):
            log.error("loading %s failed", head.model.name.short, exc_info=error)
            error = LoadFailed(f"the model cannot be loaded: {error}")
        for ticket in self._sharing(head):
            self._queue.remove(ticket)
            if not ticket.granted.done():
                ticket.granted.set_exception(error)

    # loading

    async def _load(self, ticket: _Ticket) -> LoadedModel:
        old = self._models.get(ticket.key)
        if old is not None:
            await self.vacate(old, "reload")
        return await self._loader.load(ticket.key, ticket.model, ticket.options, self)

    def resident(self) -> list[LoadedModel]:
        """The loaded models."""
        return list(self._models.values())

    async def settle(self) -> None:
        """Returns when no unload is under way."""
        if self._unloading:
            await asyncio.wait(self._unloading)

    async def vacate(self, loaded: LoadedModel, why: str) -> None:
        """Lets the model finish what it does, takes no more for it, and returns when it is gone."""
        loaded.leaving = True
        try:
            if not loaded.num_users:
                self._unload(loaded, why)
            await loaded.gone.wait()
        except asyncio.CancelledError:
            loaded.leaving = False
            raise

    # unloading

    def expire(self, model: StoredModel) -> None:
        """Unloads the model now, or when the requests that use it end. A model that is not loaded stays so."""
        loaded = self._models.get(load_key(model))
        if loaded is not None:
            loaded.keep_alive_ns = 0
            if not loaded.num_users:
                self._unload(loaded, "unload")

    def _unload(self, loaded: LoadedModel, why: str, reason: HearthError | None = None) -> None:
        loaded.stop_timer()
        if self._models.get(loaded.key) is not loaded:
            return
        del self._models[loaded.key]
        self._start(self._unloading, self._close(loaded, why, reason))

    async def _close(self, loaded: LoadedModel, why: str, reason: HearthError | None) -> None:
        started_ns = time.monotonic_ns()
        try:
            await loaded.runner.close(reason)
        finally:
            loaded.gone.set()
        release_freed()
        seconds = (time.monotonic_ns() - started_ns) / 1e9
        log.info("%s %s: %d MiB, %.2f s", why, loaded.model.name.short, loaded.runner.loaded.size_bytes >> 20, seconds)

    async def _watch(self, loaded: LoadedModel) -> None:
        """Drops a model whose process ended by itself."""
        await loaded.runner.wait_closed()
        if self._models.get(loaded.key) is loaded:
            del self._models[loaded.key]
            loaded.stop_timer()
            log.error("the runner of %s ended unexpectedly", loaded.model.name.short)
            loaded.gone.set()

    def _start(self, tasks: set[asyncio.Task[None]], work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # for people

    def loaded(self) -> list[LoadedStatus]:
        """What is loaded and what is being loaded, the longest expiry first."""
        statuses = [_status(loaded) for loaded in self._models.values()]
        if underway := self._loader.underway:
            expires_at_ns = time.time_ns() + self._keep_alive_ns
            size, num_ctx = underway.size_bytes, underway.num_ctx
            statuses.append(LoadedStatus(underway.model, size, 0, num_ctx, expires_at_ns, loading=True))
        return sorted(
            statuses, key=lambda status: -(FOREVER_NS if status.expires_at_ns is None else status.expires_at_ns)
        )

    # the end

    def start_drain(self) -> None:
        """No new leases from now on: those who ask or wait get Overloaded. Idle models are unloaded."""
        self._draining = True
        waiting, self._queue = self._queue, []
        for ticket in waiting:
            if not ticket.granted.done():
                ticket.granted.set_exception(Overloaded(STOPPING))
        if self._loading is not None:
            self._loading[1].cancel()
        for loaded in list(self._models.values()):
            if not loaded.num_users:
                self._unload(loaded, "unload")

    async def stop(self, timeout_s: float = 0.0) -> None:
        """Drains; what still runs after `timeout_s` ends with an error. Returns when every runner is gone."""
        self.start_drain()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        if self._models and timeout_s > 0:
            waits = [asyncio.ensure_future(loaded.gone.wait()) for loaded in self._models.values()]
            _, late = await asyncio.wait(waits, timeout=timeout_s)
            for wait in late:
                wait.cancel()
        for loaded in list(self._models.values()):
            self._unload(loaded, "stop", Overloaded("the server stopped before the answer was complete"))
        while tasks := self._unloading | self._background:
            await asyncio.wait(tasks)


def _normal(keep_alive_ns: int) -> int:
    return FOREVER_NS if keep_alive_ns < 0 else min(keep_alive_ns, FOREVER_NS)


def _status(loaded: LoadedModel) -> LoadedStatus:
    ready = loaded.runner.loaded
    return LoadedStatus(loaded.model, ready.size_bytes, ready.size_vram_bytes, ready.num_ctx, loaded.deadline_ns())
