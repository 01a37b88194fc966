"""Who is loaded and who waits. One event loop, no threads, no locks.

A request for a model that is loaded gets it at once. All others stand in one queue; its head decides
what is loaded next, and one load runs at a time. A load that nobody waits for any more is aborted.

Models that do not fit together take turns: while the head waits for a busy model to finish, requests for that
one queue up too, and a load serves all who wait for it. So nobody waits for more than one turn of each other
model, and a turn costs one load however many it serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context

from hearthd.duration import SECOND_NS
from hearthd.errors import HearthError, LoadFailed, LoadStalled, Overloaded, RunnerDied, RunnerOutgrown
from hearthd.log import fields
from hearthd.memory import read_memory
from hearthd.scheduler.crashes import Crash, Crashes
from hearthd.scheduler.lease import (
    FOREVER_NS,
    LONGEST_TIMER_NS,
    Lease,
    LoadedModel,
    LoadedStatus,
    LoadOptions,
    NextPrompt,
    load_key,
)
from hearthd.scheduler.loading import LoadDefaults, Loader, Prepare, Spawn
from hearthd.scheduler.queue import Queue, Ticket
from hearthd.scheduler.resident import Counts, ResidentModels
from hearthd.scheduler.runner import ProcessRunner
from hearthd.store.store import StoredModel

log = logging.getLogger(__name__)

BUSY = "server busy, please try again.  maximum pending requests exceeded"
STOPPING = "the server is stopping"
LONGEST_WAIT_NS = 5 * SECOND_NS  # of a request for a model that has crashed; beyond it is refused


class Scheduler:
    """Loads, keeps and unloads models.

    `prepare` gives the directory of a runnable variant, `spawn` a runner for it, `available` the free
    memory in bytes or None, `spare` what of it models beside others must leave. `keep_alive_ns` and
    `num_ctx` are the defaults for requests that do not say.
    `accelerated` says whether num_gpu can make a difference on this machine.
    `changed` is called, and may be set by anybody, when something else is loaded, loading or waiting.
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
        self.changed: Callable[[], None] = lambda: None
        self._max_queue = max_queue
        self._loader = Loader(
            prepare,
            spawn,
            available,
            LoadDefaults(
                keep_alive_ns=keep_alive_ns,
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
            self._tell,
        )
        self._residents = ResidentModels(self._crashed, self._tell)
        self._crashes = Crashes()
        self._queue = Queue(self._tell)
        self._num_pausing = 0  # requests that wait until their model may be loaded again
        self._worker: asyncio.Task[None] | None = None
        self._loading: tuple[Ticket, asyncio.Task[LoadedModel | None]] | None = None
        self._draining = False

    def configure(self, defaults: LoadDefaults, max_queue: int) -> None:
        """What loads and requests get from now on; loaded models keep what they have."""
        self._loader.defaults, self._max_queue = defaults, max_queue

    def _tell(self) -> None:
        self.changed()

    # leases

    @asynccontextmanager
    async def lease(
        self, model: StoredModel, options: LoadOptions, keep_alive_ns: int | None, prompt: NextPrompt | None = None
    ) -> AsyncIterator[Lease]:
        """The model, loaded, for as long as the block runs. Its keep-alive clock starts when the last block ends.

        `keep_alive_ns` None leaves a loaded model's duration as it is, negative is for ever. `prompt` is called where
        the model must be loaded and may have saved some of it. Raises Overloaded (queue full, stopping), LoadFailed,
        RunnerDied (while loading), and what `prepare` raises.
        """
        started_ns = time.monotonic_ns()
        loaded = await self._acquire(model, options, keep_alive_ns, prompt)
        try:
            yield Lease(loaded.runner, model, time.monotonic_ns() - started_ns)
        finally:
            self._residents.release(loaded)

    async def _acquire(
        self, model: StoredModel, options: LoadOptions, keep_alive_ns: int | None, prompt: NextPrompt | None
    ) -> LoadedModel:
        key = load_key(model)
        while True:
            if self._draining:
                raise Overloaded(STOPPING)
            loaded = self._residents.find(key)
            if loaded is not None and loaded.serves(options):
                if loaded.is_full:
                    self._admit()
                return self._residents.use(loaded, keep_alive_ns)
            self._admit()
            if crash := self._crashes.pending(key, time.monotonic_ns()):
                await self._pause(crash)
            elif granted := await self._wait(Ticket(key, model, options, keep_alive_ns, prompt)):
                return granted

    def _admit(self) -> None:
        """Whether one more may wait, be it for a load or for a slot of a loaded model. Raises Overloaded."""
        if self.num_waiting >= self._max_queue:
            raise Overloaded(BUSY)

    async def _pause(self, crash: Crash) -> None:
        """Returns when the model that crashed may be loaded again. LoadFailed where that is long."""
        now_ns = time.monotonic_ns()
        if crash.retry_at_ns - now_ns > LONGEST_WAIT_NS:
            raise LoadFailed(crash.sentence(now_ns))
        self._pausing(1)
        try:
            await asyncio.sleep((crash.retry_at_ns - now_ns) / SECOND_NS)
        finally:
            self._pausing(-1)

    def _pausing(self, difference: int) -> None:
        self._num_pausing += difference
        self.changed()

    # the queue

    async def _wait(self, ticket: Ticket) -> LoadedModel | None:
        """The model, used once more already, when it is loaded; None: ask again."""
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._serve_queue(), context=Context())
        self._queue.append(ticket)  # last: whoever is told of it may ask whether the queue is served
        try:
            return await ticket.granted
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise

    def _withdraw(self, ticket: Ticket) -> None:
        """Its client is gone."""
        granted = ticket.granted
        if ticket in self._queue:
            self._queue.remove(ticket)
            if self._loading is not None and not self._queue.wants(self._loading[0]):
                self._loading[1].cancel()
        elif not granted.cancelled() and granted.exception() is None and (loaded := granted.result()):
            self._residents.release(loaded)

    async def _serve_queue(self) -> None:
        while head := self._queue.head:
            self._grant_served()
            if head in self._queue:
                await self._load_for(head)
        self._worker = None

    def _grant_served(self) -> None:
        """Those who wait for what is loaded by now have waited long enough."""
        for ticket in self._queue:
            loaded = self._residents.find(ticket.key)
            if loaded is not None and loaded.serves(ticket.options):
                self._queue.remove(ticket)
                self._grant(ticket, loaded)

    def _grant(self, ticket: Ticket, loaded: LoadedModel) -> None:
        if not ticket.granted.done():
            ticket.grant(self._residents.use(loaded, ticket.keep_alive_ns))

    async def _load_for(self, head: Ticket) -> None:
        """Loads what the head of the queue wants, and answers all who want the same."""
        task = asyncio.get_running_loop().create_task(self._load(head), context=head.context)
        self._loading = (head, task)
        try:
            await asyncio.wait([task])
        finally:
            self._loading = None
        if task.cancelled():
            return
        if error := task.exception():
            return self._fail(head, error)
        loaded = task.result()
        if loaded is None:
            return self._send_back(head)
        self._residents.add(loaded)
        for ticket in self._queue.take_sharing(head):
            self._grant(ticket, loaded)
        if not loaded.num_users:
            self._residents.rest(loaded)

    def _send_back(self, head: Ticket) -> None:
        for ticket in self._queue.take_sharing(head):
            ticket.grant(None)

    def _fail(self, head: Ticket, error: BaseException) -> None:
        if isinstance(error, RunnerDied | LoadStalled):
            self._note_crash(head.key, head.model, str(error))
        if not isinstance(error, HearthError):
            name = head.model.name.short
            log.error("loading %s failed", name, exc_info=error, extra=fields(model=name))
            error = LoadFailed(f"the model cannot be loaded: {error}")
        for ticket in self._queue.take_sharing(head):
            ticket.fail(error)

    async def _load(self, ticket: Ticket) -> LoadedModel | None:
        """The model; None where it crashed meanwhile and must not be loaded yet."""
        old = self._residents.find(ticket.key)
        if old is not None and not old.runner.alive:
            await old.gone.wait()
        if self._crashes.pending(ticket.key, time.monotonic_ns()):
            return None
        return await self._loader.load(ticket.key, ticket.model, ticket.options, self._residents, ticket.prompt)

    # crashes

    def _crashed(self, loaded: LoadedModel) -> None:
        error = loaded.runner.reason
        if isinstance(error, RunnerOutgrown):
            self._loader.outgrew(loaded.key, loaded.model, error)
        reason = str(error or "the model runner ended unexpectedly")
        self._note_crash(loaded.key, loaded.model, reason, was_of_use=loaded.runner.num_answered > 0)

    def _note_crash(self, key: str, model: StoredModel, reason: str, *, was_of_use: bool = False) -> None:
        now_ns = time.monotonic_ns()
        crash = self._crashes.add(key, reason, now_ns, was_of_use=was_of_use)
        pause = f", not loaded for {(crash.retry_at_ns - now_ns) / SECOND_NS:g} s" if crash.count > 1 else ""
        count = self._residents.count_crash()
        name = model.name.short
        told = fields(model=name)
        log.error("crash %s: %s; %d in a row%s, %d so far", name, reason, crash.count, pause, count, extra=told)

    # for the watch over memory

    def resident(self) -> list[LoadedModel]:
        """The loaded models."""
        return self._residents.resident()

    def is_loading(self) -> bool:
        """Whether a model is being loaded; it is resident as soon as this is over."""
        return self._loading is not None

    def idle(self) -> list[LoadedModel]:
        """The models that nobody uses, the soonest to expire first, those for ever last."""
        return self._residents.idle()

    async def relieve(self, loaded: LoadedModel, why: str) -> None:
        """Unloads that model if nobody uses it, at once and without saving anything; returns when it is gone."""
        await self._residents.relieve(loaded, why)

    async def trim(self, level: int) -> int:
        """Bytes that the runners gave back: see the Trim frame."""
        return await self._residents.trim(level)

    # for people

    def expire(self, model: StoredModel) -> None:
        """Unloads the model now, or when the requests that use it end. A model that is not loaded stays so."""
        self._residents.expire(load_key(model))

    def loaded(self) -> list[LoadedStatus]:
        """What is loaded and what is being loaded, the longest expiry first."""
        statuses = [LoadedStatus.of(loaded) for loaded in self._residents.resident()]
        if underway := self._loader.underway:
            keep_alive_ns = self._loader.defaults.keep_alive_of(underway.model)
            expires_at_ns = time.time_ns() + keep_alive_ns if keep_alive_ns <= LONGEST_TIMER_NS else None
            size, num_ctx = underway.size_bytes, underway.num_ctx
            statuses.append(LoadedStatus(underway.model, size, 0, num_ctx, expires_at_ns, loading=True))
        return sorted(
            statuses, key=lambda status: -(FOREVER_NS if status.expires_at_ns is None else status.expires_at_ns)
        )

    def counts(self) -> Counts:
        """What happened since the start."""
        return self._residents.counts()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a load, for a slot of a loaded model, or until theirs may be loaded again."""
        return len(self._queue) + self._num_pausing + self._residents.num_waiting

    def stuck(self) -> str:
        """Why those who wait for a model would wait for ever: a fault in here; "": they will not."""
        worker = self._worker
        if self._queue.head is None or (worker is not None and not worker.done()):
            return ""
        error = worker.exception() if worker is not None and not worker.cancelled() else "it is gone"
        return f"{len(self._queue)} requests wait for a model, and what loads models has ended ({error!r})"

    # the end

    def start_drain(self) -> None:
        """No new leases from now on: those who ask or wait get Overloaded. Idle models are unloaded."""
        self._draining = True
        for ticket in self._queue.take_all():
            ticket.fail(Overloaded(STOPPING))
        if self._loading is not None:
            self._loading[1].cancel()
        self._residents.drain()

    async def stop(self, timeout_s: float = 0.0) -> None:
        """Drains; what still runs after `timeout_s` ends with an error. Returns when every runner is gone."""
        self.start_drain()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        await self._residents.stop(timeout_s)
