"""The loaded models: who uses them, when they go, and what became of those that went."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import Context

import msgspec

from hearthd.errors import HearthError, Overloaded
from hearthd.log import fields
from hearthd.scheduler.lease import FOREVER_NS, LONGEST_TIMER_NS, LoadedModel, normal
from hearthd.scheduler.trim import release_freed

log = logging.getLogger(__name__)

TRIM_TIMEOUT_S = 5.0  # of a runner that is in the middle of a step


class Counts(msgspec.Struct, frozen=True):
    """What happened since the daemon began."""

    loads: int = 0
    evictions: int = 0  # idle or finished models that made room for another
    reliefs: int = 0  # idle models unloaded for lack of memory
    expiries: int = 0  # models whose keep_alive ended
    crashes: int = 0  # runners that ended by themselves, while serving or idle or loading


class ResidentModels:
    """The models in memory, by load key. Tells `crashed` of each whose runner ended by itself.

    `changed` is told when others are loaded, or more or fewer requests wait for a slot.
    """

    def __init__(self, crashed: Callable[[LoadedModel], None], changed: Callable[[], None] = lambda: None) -> None:
        self._crashed = crashed
        self._changed = changed
        self._models: dict[str, LoadedModel] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._draining = False
        self._tally: Counter[str] = Counter()

    def find(self, key: str) -> LoadedModel | None:
        """The model with that load key."""
        return self._models.get(key)

    def resident(self) -> list[LoadedModel]:
        """All of them."""
        return list(self._models.values())

    def idle(self) -> list[LoadedModel]:
        """Those that nobody uses, the soonest to expire first, those for ever last."""
        idle = [loaded for loaded in self._models.values() if not loaded.num_users and not loaded.leaving]
        return sorted(idle, key=lambda loaded: FOREVER_NS if loaded.expires_at_ns is None else loaded.expires_at_ns)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot of their model."""
        return sum(loaded.num_waiting for loaded in self._models.values())

    def counts(self) -> Counts:
        """What happened so far."""
        return Counts(**self._tally)

    def count_crash(self) -> int:
        """Notes a runner that ended by itself; how many have so far."""
        self._tally["crashes"] += 1
        return self._tally["crashes"]

    # use

    def add(self, loaded: LoadedModel) -> None:
        """A model that has just been loaded."""
        self._models[loaded.key] = loaded
        self._tally["loads"] += 1
        self._changed()
        _start(self._watching, self._watch(loaded))

    def use(self, loaded: LoadedModel, keep_alive_ns: int | None) -> LoadedModel:
        """One user more. `keep_alive_ns` None leaves the model's duration as it is."""
        loaded.num_users += 1
        if loaded.num_waiting:
            self._changed()
        loaded.stop_timer()
        if keep_alive_ns is not None:
            loaded.keep_alive_ns = normal(keep_alive_ns)
        return loaded

    def release(self, loaded: LoadedModel) -> None:
        """One user less."""
        had_waiting = loaded.num_waiting > 0
        loaded.num_users -= 1
        if had_waiting:
            self._changed()
        if not loaded.num_users and self._models.get(loaded.key) is loaded:
            self.rest(loaded)

    def rest(self, loaded: LoadedModel) -> None:
        """Starts the clock of a model that nobody uses."""
        loaded.stop_timer()
        if loaded.leaving or self._draining or loaded.keep_alive_ns == 0:
            self._unload(loaded, loaded.why or "unload")
        elif loaded.keep_alive_ns <= LONGEST_TIMER_NS:
            delay_s = loaded.keep_alive_ns / 1e9
            loaded.expires_at_ns = time.time_ns() + loaded.keep_alive_ns
            loop = asyncio.get_running_loop()
            loaded.timer = loop.call_later(delay_s, self._unload, loaded, "expire", context=Context())

    # going

    def expire(self, key: str) -> None:
        """Unloads the model now, or when the requests that use it end. One that is not loaded stays so."""
        loaded = self._models.get(key)
        if loaded is not None:
            loaded.keep_alive_ns = 0
            if not loaded.num_users:
                self._unload(loaded, "unload")

    async def vacate(self, loaded: LoadedModel, why: str) -> None:
        """Lets the model finish what it does, takes no more for it, and returns when it is gone."""
        loaded.leaving, loaded.why = True, why
        try:
            if not loaded.num_users:
                self._unload(loaded, why)
            await loaded.gone.wait()
        except asyncio.CancelledError:
            loaded.leaving, loaded.why = False, ""
            raise

    async def relieve(self, loaded: LoadedModel, why: str) -> None:
        """Unloads the model if nobody uses it, at once and without saving anything; returns when it is gone."""
        if loaded.num_users or self._models.get(loaded.key) is not loaded:
            return
        self._tally["reliefs"] += 1
        self._unload(loaded, why, save=False)
        await loaded.gone.wait()

    async def trim(self, level: int) -> int:
        """Bytes that all runners together gave back; one that takes too long to say so counts for nothing."""
        trims = [asyncio.ensure_future(loaded.runner.trim(level)) for loaded in self._models.values()]
        if not trims:
            return 0
        try:
            done, _ = await asyncio.wait(trims, timeout=TRIM_TIMEOUT_S)
        finally:
            for trim in trims:
                trim.cancel()
        return sum(trim.result() for trim in done if trim.exception() is None)

    async def settle(self) -> None:
        """Returns when no unload is under way."""
        if self._unloading:
            await asyncio.wait(self._unloading)

    def _unload(self, loaded: LoadedModel, why: str, reason: HearthError | None = None, *, save: bool = True) -> None:
        loaded.stop_timer()
        if self._models.get(loaded.key) is loaded and loaded.runner.alive:  # else it goes by itself: see _watch
            self._drop(loaded)
            _start(self._unloading, self._close(loaded, why, reason, save))

    def _drop(self, loaded: LoadedModel) -> None:
        del self._models[loaded.key]
        self._changed()

    async def _close(self, loaded: LoadedModel, why: str, reason: HearthError | None, save: bool) -> None:
        started_ns = time.monotonic_ns()
        try:
            await loaded.runner.close(reason, save=save)
        finally:
            loaded.gone.set()
        release_freed()
        name, size_bytes = loaded.model.name.short, loaded.runner.loaded.size_bytes
        duration_ns = time.monotonic_ns() - started_ns
        told = fields(model=name, num_bytes=size_bytes, duration_ns=duration_ns)
        size_mib, seconds = size_bytes >> 20, duration_ns / 1e9
        log.info("%s %s: %d MiB, %.2f s%s", why, name, size_mib, seconds, self._so_far(why), extra=told)

    def _so_far(self, why: str) -> str:
        """Counts what is counted; its number, for the log."""
        noun = {"evict": "evictions", "expire": "expiries"}.get(why)
        if noun is None:
            return ""
        self._tally[noun] += 1
        return f", {self._tally[noun]} {noun} so far"

    async def _watch(self, loaded: LoadedModel) -> None:
        """Drops a model whose process ended by itself."""
        await loaded.runner.wait_closed()
        if self._models.get(loaded.key) is loaded:
            self._drop(loaded)
            loaded.stop_timer()
            try:
                self._crashed(loaded)
            finally:
                loaded.gone.set()

    # the end

    def drain(self) -> None:
        """Idle models go now, the others when their last user has gone."""
        self._draining = True
        for loaded in self.resident():
            if not loaded.num_users:
                self._unload(loaded, "unload")

    async def stop(self, timeout_s: float) -> None:
        """Drains; what still runs after `timeout_s` ends with an error. Returns when every runner is gone."""
        self.drain()
        if self._models and timeout_s > 0:
            waits = [asyncio.ensure_future(loaded.gone.wait()) for loaded in self._models.values()]
            _, late = await asyncio.wait(waits, timeout=timeout_s)
            for wait in late:
                wait.cancel()
        for loaded in self.resident():
            reason = Overloaded("the server stopped before the answer was complete")
            self._unload(loaded, "stop", reason, save=False)
        while tasks := self._unloading | self._watching:
            await asyncio.wait(tasks)


def _start(tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
    """In the context of no request: what it tells the log is of none."""
    task = asyncio.get_running_loop().create_task(work, context=Context())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
