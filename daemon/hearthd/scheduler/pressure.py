"""When memory gets short: idle models go, then what prompts left in caches, never an answer under way.

Admission is by budget; this is for what nobody foresaw: other programs that grow. Little available memory is the
sign; stalls (PSI) and kills only sharpen it, for they come late, and a cgroup's throttling stalls too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

from hearthd import cage
from hearthd.duration import SECOND_NS
from hearthd.engine.frames import Load
from hearthd.log import fields
from hearthd.memory import Memory, Pressure, Scope, anonymous_bytes, read_memory, read_pressure
from hearthd.scheduler.estimates import size
from hearthd.scheduler.lease import LoadedModel
from hearthd.scheduler.placement import low_bytes, reserve_bytes
from hearthd.scheduler.runner import Runner

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Runner)

POLL_S, TIGHT_POLL_S = 1.0, 0.25
LONGEST_POLL_S = 5.0  # where there is much
TAKEN_A_SECOND = 4 << 30  # bytes: what other programs are thought to take at most; the kernel clears each page first
LAST_SHARE = 0.75  # of the reserve: below that even the only model is too many
STALLED_PERCENT = 10.0  # of ten seconds
STALLED_SHARE = 4 / 3  # of the mark: below that, stalls or kills say that memory is short
TIGHT_SHARE = 2.0  # of the mark: below that it is looked at more often
EFFECT_NS = 2 * SECOND_NS  # within which relief shows
SHOWN_SHARE = 0.5  # of what was to come back, for relief to have shown
TRIM_PAUSE_NS = 30 * SECOND_NS  # between two trims of a level
PENALTY_NS, MAX_PENALTY_NS = 30 * SECOND_NS, 600 * SECOND_NS


# the policy


@dataclass(frozen=True, slots=True)
class Reading:
    """What the system tells at one moment."""

    memory: Memory
    pressure: Pressure


@dataclass(frozen=True, slots=True)
class Tenants:
    """The loaded models, by number."""

    num_loaded: int
    num_idle: int


class Kind(StrEnum):
    """What can be done, the mildest last."""

    REST = "rest"
    RELIEVE = "relieve"  # unload the idle model whose deadline is next
    TRIM_CACHES = "trim caches"
    TRIM_ALL = "trim all"


@dataclass(frozen=True, slots=True)
class Action:
    """What to do now, and when to look again."""

    kind: Kind
    pause_s: float = POLL_S
    why: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What the policy remembers between two readings."""

    acted_ns: int | None = None  # when memory was last asked back, until that has shown
    wanted_bytes: int = 0  # available memory that shows it
    trimmed_caches_ns: int | None = None
    trimmed_all_ns: int | None = None
    num_oom_kills: int | None = None
    num_limit_hits: int | None = None


def decide(reading: Reading, tenants: Tenants, state: State, now_ns: int) -> Action:
    """The next act, and when to look again."""
    scope, mark = _tightest(reading.memory, tenants.num_loaded)
    available_bytes = scope.available_bytes
    if available_bytes >= TIGHT_SHARE * mark or not scope.total_bytes:  # nothing is known of it
        return Action(Kind.REST, _roomy_pause_s(reading.memory, tenants.num_loaded))
    rest = Action(Kind.REST, TIGHT_POLL_S)
    sign = _sign(reading.pressure, state)
    if available_bytes >= (STALLED_SHARE * mark if sign else mark) or _is_awaited(available_bytes, state, now_ns):
        return rest
    why = f"{size(available_bytes)} of {size(scope.total_bytes)} available to {scope.name}{sign}"
    if tenants.num_idle:
        return Action(Kind.RELIEVE, TIGHT_POLL_S, why)
    if tenants.num_loaded and _is_due(state.trimmed_caches_ns, now_ns):
        return Action(Kind.TRIM_CACHES, TIGHT_POLL_S, why)
    if tenants.num_loaded and _is_due(state.trimmed_all_ns, now_ns):
        return Action(Kind.TRIM_ALL, TIGHT_POLL_S, why)
    return rest


def following(state: State, reading: Reading, action: Action, expected_bytes: int, now_ns: int) -> State:
    """The state after the action, which was to bring back `expected_bytes`."""
    kills, hits = reading.pressure.num_oom_kills, reading.pressure.num_limit_hits
    state = replace(state, num_oom_kills=kills, num_limit_hits=hits)
    if action.kind is Kind.TRIM_CACHES:
        state = replace(state, trimmed_caches_ns=now_ns)
    if action.kind is Kind.TRIM_ALL:
        state = replace(state, trimmed_all_ns=now_ns)
    if action.kind is Kind.REST:
        return state
    wanted_bytes = reading.memory.available_bytes + int(SHOWN_SHARE * expected_bytes)
    return replace(state, acted_ns=now_ns, wanted_bytes=wanted_bytes)


def _tightest(memory: Memory, num_loaded: int) -> tuple[Scope, int]:
    """The scope that is closest to its mark, or farthest below, and that mark."""
    marks = [(scope, _mark(scope.total_bytes, num_loaded)) for scope in memory.scopes]
    return min(marks, key=lambda pair: pair[0].available_bytes / pair[1])


def _roomy_pause_s(memory: Memory, num_loaded: int) -> float:
    """How long it takes at least until some scope gets tight, within bounds."""
    spare = [scope.available_bytes - TIGHT_SHARE * _mark(scope.total_bytes, num_loaded) for scope in memory.scopes]
    return min(max(POLL_S, min(spare) / TAKEN_A_SECOND), LONGEST_POLL_S)


def _mark(total_bytes: int, num_loaded: int) -> int:
    return low_bytes(total_bytes) if num_loaded > 1 else int(LAST_SHARE * reserve_bytes(total_bytes))


def _sign(pressure: Pressure, state: State) -> str:
    """What, beside little memory, says that it is short; "": nothing."""
    if _has_grown(state.num_oom_kills, pressure.num_oom_kills):
        return ", the kernel has killed a process for memory"
    if (pressure.some_avg10 or 0.0) >= STALLED_PERCENT:
        return f", tasks waited for memory {pressure.some_avg10:.0f} % of the time"
    if _has_grown(state.num_limit_hits, pressure.num_limit_hits):
        return ", its limit was hit"
    return ""


def _has_grown(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now > before


def _is_awaited(available_bytes: int, state: State, now_ns: int) -> bool:
    """Whether what was done last may still show."""
    if state.acted_ns is None or now_ns - state.acted_ns >= EFFECT_NS:
        return False
    return available_bytes < state.wanted_bytes


def _is_due(done_ns: int | None, now_ns: int) -> bool:
    return done_ns is None or now_ns - done_ns >= TRIM_PAUSE_NS


# what keeps models from coming and going


class Penalty:
    """After models had to go, those that come must leave more room beside others: as much as went, for a while.

    The while doubles as long as pressure returns before twice its time has passed.
    """

    def __init__(self) -> None:
        self._num_bytes = 0
        self._until_ns = 0
        self._lasts_ns = 0

    def add(self, num_bytes: int, now_ns: int) -> None:
        """A model of that size had to go."""
        if now_ns < self._until_ns:  # part of the same shortage
            self._num_bytes = max(self._num_bytes, num_bytes)
            self._until_ns = max(self._until_ns, now_ns + self._lasts_ns)
            return
        returns = bool(self._lasts_ns) and now_ns < self._until_ns + self._lasts_ns
        self._lasts_ns = min(2 * self._lasts_ns, MAX_PENALTY_NS) if returns else PENALTY_NS
        self._num_bytes, self._until_ns = num_bytes, now_ns + self._lasts_ns

    def spare_bytes(self, now_ns: int) -> int:
        """What models beside others must leave free because of it."""
        return self._num_bytes if now_ns < self._until_ns else 0


# the watch


class Relievable(Protocol):
    """The loaded models, as far as pressure has to do with them."""

    def resident(self) -> list[LoadedModel]:
        """The loaded models."""

    def is_loading(self) -> bool:
        """Whether one is being loaded; it is among the loaded ones as soon as this is over."""

    def idle(self) -> list[LoadedModel]:
        """Those that nobody uses, the soonest deadline first."""

    async def relieve(self, loaded: LoadedModel, why: str) -> None:
        """Unloads it now, unless it is used again; returns when it is gone."""

    async def trim(self, level: int) -> int:
        """Has all runners give back what no answer needs; how many bytes that was."""


def read(proc: Path = cage.PROC, cgroup: Path = cage.CGROUP) -> Reading:
    """The readings of this moment. Where memory is plenty, of pressure nothing is read: it would change nothing.

    A runner that was killed because of its own limit tells nothing of the others.
    """
    memory = read_memory(proc, cgroup)
    if all(scope.available_bytes >= TIGHT_SHARE * low_bytes(scope.total_bytes) for scope in memory.scopes):
        return Reading(memory, Pressure(None, None, None))
    pressure = read_pressure(proc, cgroup)
    if pressure.num_oom_kills is not None:
        pressure = replace(pressure, num_oom_kills=pressure.num_oom_kills - cage.current().num_limit_kills)
    return Reading(memory, pressure)


class Watch:
    """Looks at memory while a model is loaded or being loaded, and relieves it. Sleeps otherwise."""

    def __init__(self, read: Callable[[], Reading] = read, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._read = read
        self._clock = clock
        self._awake = asyncio.Event()
        self._num_loading = 0
        self._state = State()
        self._penalty = Penalty()

    def spare_bytes(self) -> int:
        """What models beside others must leave free because others had to go lately."""
        return self._penalty.spare_bytes(self._clock())

    def noticing(self, spawn: Callable[[Load], Awaitable[R]]) -> Callable[[Load], Awaitable[R]]:
        """`spawn`, noticed: it begins the watch."""

        async def spawned(frame: Load) -> R:
            self._num_loading += 1
            self._awake.set()
            try:
                return await spawn(frame)
            finally:
                self._num_loading -= 1

        return spawned

    async def run(self, models: Relievable) -> None:
        """For ever."""
        while True:
            if not models.resident() and not models.is_loading():
                self._awake.clear()
                await self._awake.wait()
                self._state = State()
            await self._pause(await self._step(models))

    async def _pause(self, pause_s: float) -> None:
        """Until then, or until another model is loaded."""
        self._awake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), pause_s)

    async def _step(self, models: Relievable) -> float:
        """Looks once and does what is to be done; how long to wait then, in s."""
        reading, now_ns = self._read(), self._clock()
        loaded, idle = models.resident(), models.idle()
        action = decide(reading, Tenants(len(loaded) + self._num_loading, len(idle)), self._state, now_ns)
        expected_bytes = anonymous_bytes(idle[0].runner.pid) if action.kind is Kind.RELIEVE else 0
        self._state = following(self._state, reading, action, expected_bytes, now_ns)
        try:
            await self._perform(action, models)
        except Exception:  # whatever it is, the watch goes on
            log.exception("memory could not be relieved")
        return action.pause_s

    async def _perform(self, action: Action, models: Relievable) -> None:
        if action.kind is Kind.RELIEVE:
            loaded = models.idle()[0]
            name, size_bytes = loaded.model.name.short, loaded.runner.loaded.size_bytes
            told = fields(model=name, num_bytes=size_bytes)
            log.info("memory is short (%s): %s is idle and goes", action.why, name, extra=told)
            self._penalty.add(size_bytes, self._clock())
            await models.relieve(loaded, "pressure")
        elif action.kind is not Kind.REST:
            level = 1 if action.kind is Kind.TRIM_CACHES else 2
            released_bytes = await models.trim(level)
            told = fields(num_bytes=released_bytes)
            trimmed = size(released_bytes)
            log.info("memory is short (%s): all models are in use; trimmed %s", action.why, trimmed, extra=told)
