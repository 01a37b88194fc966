"""What the policy asks for at the start: models are pulled where they are not here, and loaded, one after another.

What the network or the registry keeps from being pulled is tried again, ever more rarely. What cannot get better by
itself (no such model, no room, no memory) is said once and left until the next start or reload; requests load it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

import msgspec

from hearthd.errors import HearthError, LoadStalled, ModelNotFound, Overloaded, RunnerDied, StoreError, TransferFailed
from hearthd.log import fields
from hearthd.policy import Policy, Wanted
from hearthd.registry.progress import Progress
from hearthd.registry.transfers import Transfers
from hearthd.scheduler.lease import LoadOptions, load_key
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import ModelStore, StoredModel

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0
MOST_LOADS = 3  # of a model whose runner ends while it loads
TELL_S = 0.3  # between two words on how far a pull is

# answers of a registry that another try may change, among those of 400 and above
PASSING = frozenset((408, 425, 429))
FINAL_REASONS = frozenset(("not_found", "unauthorized", "mismatch", "no_space"))  # of TransferFailed

log = logging.getLogger(__name__)


class _Config(Protocol):
    @property
    def noprune(self) -> bool: ...


class Parts(Protocol):
    """Those of the daemon that are needed here."""

    @property
    def config(self) -> _Config: ...

    @property
    def store(self) -> ModelStore: ...

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def transfers(self) -> Transfers: ...


class Boot:
    """Does what policies say. `tell` hears in a few words what is done now; "" when nothing is left to do."""

    def __init__(self, parts: Parts, tell: Callable[[str], None]) -> None:
        self._parts = parts
        self._tell = tell
        self._lock = asyncio.Lock()  # a run that was cancelled ends before the next one begins
        self._told_at_s = 0.0
        self._num_moved = 0  # bytes
        self.tried = asyncio.Event()  # each model is loaded, or given up, or waits for its next try

    async def run(self, policy: Policy) -> None:
        """Returns when each model is pulled and loaded, or given up. Cancelling it leaves what was fetched."""
        async with self._lock:
            waiting = {model: _Tries() for model in policy.models}
            pause_s = FIRST_PAUSE_S
            while waiting:
                num_moved = self._num_moved
                for model, tries in list(waiting.items()):
                    if await self._is_done(model, tries):
                        del waiting[model]
                self.tried.set()
                if waiting:
                    pause_s = FIRST_PAUSE_S if self._num_moved > num_moved else pause_s
                    names = ", ".join(model.name.short for model in waiting)
                    self._tell(f"{names}: trying again in {pause_s:.0f} s")
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.tried.set()
            self._tell("")

    async def _is_done(self, wanted: Wanted, tries: _Tries) -> bool:
        """Whether nothing is left to be done for the model. Failures are logged, each sentence once."""
        name = wanted.name.short
        try:
            model = await self._ready(wanted)
            if wanted.load:
                await self._load(wanted, model)
        except HearthError as error:
            is_final = not tries.may_help(error)
            if is_final or str(error) != tries.said:
                more = "given up until the next start or reload" if is_final else "it is tried again"
                log.log(
                    logging.ERROR if is_final else logging.WARNING,
                    *("%s, wanted at the start: %s; %s", name, error, more),
                    extra=fields(model=name),
                )
            tries.said = str(error)
            return is_final
        except Exception:  # whatever it is, the other models are looked after
            log.exception("%s, wanted at the start, is given up", name, extra=fields(model=name))
        return True

    # pulling

    async def _ready(self, wanted: Wanted) -> StoredModel:
        """The model, pulled where it is not here. ModelNotFound, what a pull raises."""
        store = self._parts.store
        try:
            return store.resolve(wanted.name)
        except (ModelNotFound, StoreError):
            if not wanted.pull:
                raise
        await self._pull(wanted)
        return store.resolve(wanted.name)

    async def _pull(self, wanted: Wanted) -> None:
        from hearthd.registry.pull import pull  # memory that a device with its models does without

        name, began_ns = wanted.name.short, time.monotonic_ns()
        log.info("pulling %s, wanted at the start", name, extra=fields(model=name))
        self._tell(f"pulling {name}")
        steps = pull(
            self._parts.store,
            self._parts.transfers,
            wanted.name,
            insecure=wanted.name.scheme == "http",
            noprune=self._parts.config.noprune,
        )
        blobs: dict[str, Progress] = {}
        async with aclosing(steps):
            async for progress in steps:
                if progress.digest:
                    last = blobs.get(progress.digest)
                    self._num_moved += max(0, progress.completed - last.completed) if last else 0
                    blobs[progress.digest] = progress
                self._tell_progress(name, progress, blobs)
        duration_ns = time.monotonic_ns() - began_ns
        log.info("%s is pulled", name, extra=fields(model=name, duration_ns=duration_ns))

    def _tell_progress(self, name: str, progress: Progress, blobs: dict[str, Progress]) -> None:
        now_s = time.monotonic()
        if now_s - self._told_at_s < TELL_S:
            return
        self._told_at_s = now_s
        parts = blobs.values() if progress.digest else [progress]
        total, completed = sum(part.total for part in parts), sum(part.completed for part in parts)
        doing = f"pulling {name}" if progress.digest else f"{name}: {progress.status}"
        self._tell(f"{doing}, {100 * completed // total} %" if total else doing)

    # loading

    async def _load(self, wanted: Wanted, model: StoredModel) -> None:
        """Has it loaded, with its keep-alive time. What is loaded keeps its window. LoadFailed, RunnerDied, others."""
        scheduler, key = self._parts.scheduler, load_key(model)
        loaded = next((status for status in scheduler.loaded() if load_key(status.model) == key), None)
        if loaded is not None:
            options = LoadOptions(num_ctx=loaded.num_ctx)
        else:
            self._tell(f"loading {wanted.name.short}")
            options = self._options(wanted, model)
        async with scheduler.lease(model, options, wanted.keep_alive_ns):
            return

    def _options(self, wanted: Wanted, model: StoredModel) -> LoadOptions:
        """Those of the policy above the model's own, so that a request without options finds it as it needs it."""
        params = self._parts.store.contents(model).params
        try:
            options = msgspec.convert(params, LoadOptions)
        except msgspec.ValidationError:  # requests are told
            options = LoadOptions()
        return options if wanted.num_ctx is None else msgspec.structs.replace(options, num_ctx=wanted.num_ctx)


class _Tries:
    """What became of a model so far."""

    def __init__(self) -> None:
        self.said = ""  # of the last failure
        self.num_ends = 0  # of runners that were to load it

    def may_help(self, error: HearthError) -> bool:
        """Whether one more try after a pause may end otherwise."""
        if isinstance(error, TransferFailed):
            is_refusal = 400 <= error.answered < 500 and error.answered not in PASSING
            return error.reason not in FINAL_REASONS and not is_refusal
        if isinstance(error, RunnerDied | LoadStalled):
            self.num_ends += 1
            return self.num_ends < MOST_LOADS
        return isinstance(error, Overloaded)
