from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hearthd.duration import SECOND_NS
from hearthd.engine.frames import Load
from hearthd.memory import Memory, Pressure, Scope
from hearthd.scheduler import pressure
from hearthd.scheduler.pressure import (
    LONGEST_POLL_S,
    MAX_PENALTY_NS,
    PENALTY_NS,
    POLL_S,
    TIGHT_POLL_S,
    Action,
    Kind,
    Penalty,
    Reading,
    State,
    Tenants,
    Watch,
    decide,
    following,
)
from hearthd.scheduler.scheduler import Scheduler
from tests.hearthd.scheduler.stage import MINUTE_NS, Stage, ToyRunner, hold, run, stored, touch, until

A, B, C = stored("a"), stored("b"), stored("c")
MIB, GIB = 1 << 20, 1 << 30
CALM = Pressure(0.0, 0, 0)
TWO_IDLE, ONE_IDLE, BUSY = Tenants(2, 2), Tenants(1, 1), Tenants(2, 0)
NOW_NS = 1000 * SECOND_NS


def reading(available: int, total: int = GIB, pressure: Pressure = CALM) -> Reading:
    """A machine of 1 GiB is low below 122.88 MiB, and below 48 MiB with only one model."""
    return Reading(Memory((Scope("the machine", total, available),)), pressure)


def decided(
    available: int,
    tenants: Tenants = TWO_IDLE,
    state: State = State(),  # noqa: B008 - it is frozen
    pressure: Pressure = CALM,
) -> Action:
    return decide(reading(available, pressure=pressure), tenants, state, NOW_NS)


# what is done


@pytest.mark.parametrize("tenants", [TWO_IDLE, ONE_IDLE, BUSY, Tenants(0, 0)])
def test_plenty_of_memory_is_looked_at_once_a_second(tenants: Tenants) -> None:
    assert decided(400 * MIB, tenants) == Action(Kind.REST, POLL_S)


@pytest.mark.parametrize(("available_gib", "pause_s"), [(3, POLL_S), (14, 3.0), (31, LONGEST_POLL_S)])
def test_the_more_memory_the_more_rarely_it_is_looked_at(available_gib: int, pause_s: float) -> None:
    machine = Scope("the machine", 32 * GIB, available_gib * GIB)  # tight below 2 GiB
    assert decide(Reading(Memory((machine,)), CALM), TWO_IDLE, State(), NOW_NS) == Action(Kind.REST, pause_s)


def test_a_small_scope_is_looked_at_as_often_as_if_there_were_no_other() -> None:
    memory = Memory((Scope("the machine", 32 * GIB, 31 * GIB), Scope("cgroup /box", GIB, 900 * MIB)))
    assert decide(Reading(memory, CALM), TWO_IDLE, State(), NOW_NS) == Action(Kind.REST, POLL_S)


def test_memory_that_gets_tight_is_looked_at_more_often() -> None:
    assert decided(200 * MIB) == Action(Kind.REST, TIGHT_POLL_S)


def test_low_memory_unloads_an_idle_model_and_says_why() -> None:
    action = decided(120 * MIB)
    assert action.kind is Kind.RELIEVE
    assert action.why == "120 MiB of 1.0 GiB available to the machine"


def test_the_only_model_stays_longer_than_one_of_several() -> None:
    assert decided(60 * MIB, ONE_IDLE).kind is Kind.REST
    assert decided(47 * MIB, ONE_IDLE).kind is Kind.RELIEVE


def test_a_model_loaded_alone_down_to_the_reserve_is_not_unloaded_at_once() -> None:
    assert decided(64 * MIB, ONE_IDLE).kind is Kind.REST
    assert decided(64 * MIB, ONE_IDLE, pressure=Pressure(90.0, 0, 0)).kind is Kind.REST


def test_the_tightest_scope_counts() -> None:
    roomy, box = Scope("the machine", 8 * GIB, 4 * GIB), Scope("cgroup /box", 400 * MIB, 30 * MIB)
    action = decide(Reading(Memory((roomy, box)), CALM), ONE_IDLE, State(), NOW_NS)
    assert (action.kind, action.why) == (Kind.RELIEVE, "30 MiB of 400 MiB available to cgroup /box")


@pytest.mark.parametrize(
    ("pressure", "word"),
    [
        (Pressure(12.0, 0, 0), "tasks waited for memory 12 % of the time"),
        (Pressure(0.0, 1, 0), "the kernel has killed a process for memory"),
        (Pressure(0.0, 0, 3), "its limit was hit"),
    ],
)
def test_signs_of_pressure_count_where_memory_is_nearly_low_and_not_alone(pressure: Pressure, word: str) -> None:
    before = State(num_oom_kills=0, num_limit_hits=0)
    assert decided(140 * MIB).kind is Kind.REST
    assert word in decided(140 * MIB, state=before, pressure=pressure).why
    assert decided(180 * MIB, state=before, pressure=pressure).kind is Kind.REST
    assert decided(900 * MIB, state=before, pressure=pressure).kind is Kind.REST


def test_kills_and_hits_before_the_watch_began_are_no_sign() -> None:
    assert decided(140 * MIB, pressure=Pressure(0.0, 5, 500)).kind is Kind.REST


def test_a_machine_that_tells_no_pressure_is_watched_by_its_memory() -> None:
    nothing = Pressure(None, None, None)
    assert decided(140 * MIB, pressure=nothing).kind is Kind.REST
    assert decided(100 * MIB, pressure=nothing).kind is Kind.RELIEVE


def test_a_machine_that_tells_nothing_is_left_alone() -> None:
    assert decide(reading(0, total=0), BUSY, State(), NOW_NS).kind is Kind.REST


def test_when_all_models_are_in_use_caches_go_then_all_that_can_and_never_a_model() -> None:
    state, kinds = State(), []
    for second in range(40):
        now_ns = NOW_NS + second * SECOND_NS
        low = reading(20 * MIB)
        action = decide(low, BUSY, state, now_ns)
        state = following(state, low, action, 0, now_ns)
        kinds += [(second, action.kind)] if action.kind is not Kind.REST else []
    assert kinds == [
        (0, Kind.TRIM_CACHES),
        (1, Kind.TRIM_ALL),
        (30, Kind.TRIM_CACHES),
        (31, Kind.TRIM_ALL),
    ]


# back-off


def after_relief(at_ns: int = NOW_NS) -> State:
    return following(State(), reading(100 * MIB), Action(Kind.RELIEVE), 40 * MIB, at_ns)


def test_nothing_more_goes_before_relief_has_shown() -> None:
    assert decided(100 * MIB, state=after_relief()).kind is Kind.REST


def test_the_next_one_goes_when_relief_has_shown_and_does_not_suffice() -> None:
    assert decided(121 * MIB, state=after_relief()).kind is Kind.RELIEVE


def test_the_next_one_goes_when_relief_does_not_show() -> None:
    assert decided(100 * MIB, state=after_relief(NOW_NS - 2 * SECOND_NS)).kind is Kind.RELIEVE


def test_room_that_a_model_left_stays_free_beside_others_for_a_while() -> None:
    penalty = Penalty()
    assert penalty.spare_bytes(NOW_NS) == 0
    penalty.add(300, NOW_NS)
    assert penalty.spare_bytes(NOW_NS + PENALTY_NS - 1) == 300
    assert penalty.spare_bytes(NOW_NS + PENALTY_NS) == 0


def test_models_that_go_together_are_one_shortage() -> None:
    penalty = Penalty()
    penalty.add(300, NOW_NS)
    penalty.add(200, NOW_NS + 1)
    assert penalty.spare_bytes(NOW_NS + PENALTY_NS) == 300
    assert penalty.spare_bytes(NOW_NS + PENALTY_NS + 1) == 0


def test_the_while_doubles_when_pressure_returns_soon_and_starts_anew_when_it_does_not() -> None:
    penalty, now_ns, whiles = Penalty(), NOW_NS, []
    for _ in range(7):
        penalty.add(300, now_ns)
        lasts_ns = next(n * PENALTY_NS for n in range(1, 100) if not penalty.spare_bytes(now_ns + n * PENALTY_NS))
        whiles.append(lasts_ns)
        now_ns += lasts_ns
    assert whiles == [min(PENALTY_NS << n, MAX_PENALTY_NS) for n in range(7)]
    penalty.add(300, now_ns + 2 * MAX_PENALTY_NS)
    assert penalty.spare_bytes(now_ns + 2 * MAX_PENALTY_NS + PENALTY_NS) == 0


# what is read


@pytest.mark.parametrize(("available_mib", "is_read"), [(900, False), (200, True)])
def test_pressure_is_read_only_where_memory_is_tight(tmp_path: Path, available_mib: int, is_read: bool) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "meminfo").write_text(f"MemTotal: {1 << 20} kB\nMemAvailable: {available_mib << 10} kB\n")
    (tmp_path / "pressure" / "memory").write_text("some avg10=12.00 avg60=0.00 avg300=0.00 total=0\n")
    found = pressure.read(tmp_path, tmp_path / "cgroup")
    assert found.memory.available_bytes == available_mib * MIB
    assert found.pressure.some_avg10 == (12.0 if is_read else None)


# the watch, over a scheduler


@dataclass
class NoticedStage(Stage):
    """Its loads begin the watch."""

    watch: Watch = field(default_factory=Watch)

    async def _spawn(self, load: Load) -> ToyRunner:
        return await self.watch.noticing(super()._spawn)(load)


@dataclass
class Machine:
    """A machine whose memory the test sets; each of the loaded models takes 30 MiB."""

    stage: NoticedStage = field(default_factory=NoticedStage)
    free_bytes: int = 900 * MIB
    total_bytes: int = GIB
    num_reads: int = 0

    def read(self) -> Reading:
        self.num_reads += 1
        return reading(self.free_bytes - 30 * MIB * len(self.stage.living), self.total_bytes)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[tuple[Scheduler, Watch]]:
        watch = self.stage.watch = Watch(self.read)
        scheduler = self.stage.scheduler(spare=watch.spare_bytes)
        task = asyncio.create_task(watch.run(scheduler))
        try:
            yield scheduler, watch
        finally:
            task.cancel()
            await asyncio.wait([task])
            await scheduler.stop()


def test_idle_models_go_the_soonest_deadline_first_and_no_more_than_needed() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, _):
            await touch(scheduler, A, keep_alive_ns=9 * MINUTE_NS)
            await touch(scheduler, B, keep_alive_ns=1 * MINUTE_NS)
            await touch(scheduler, C, keep_alive_ns=5 * MINUTE_NS)
            machine.free_bytes = 190 * MIB
            await until(lambda: machine.stage.living == ["a:latest", "c:latest"])
            num_reads = machine.num_reads
            await until(lambda: machine.num_reads > num_reads + 3)
            assert machine.stage.living == ["a:latest", "c:latest"]

    run(scenario())


def test_a_model_in_use_stays_and_is_trimmed() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, _):
            busy = hold(scheduler, A)
            await until(lambda: busy.lease)
            machine.free_bytes = 40 * MIB
            await until(lambda: machine.stage.runners[0].trims == [1, 2])
            assert machine.stage.living == ["a:latest"]
            await busy.let_go()
            await until(lambda: not machine.stage.living)

    run(scenario())


def test_nothing_is_read_while_nothing_is_loaded() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, _):
            await asyncio.sleep(0.02)
            assert machine.num_reads == 0
            await touch(scheduler, A, keep_alive_ns=0)
            await until(lambda: not scheduler.loaded())

    run(scenario())


def test_the_watch_goes_on_whenever_it_looks_while_a_load_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("POLL_S", "LONGEST_POLL_S"):  # it looks at nearly every turn of the loop
        monkeypatch.setattr(pressure, bound, 0.0)

    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, _):
            for model in (A, B, C) * 10:
                await touch(scheduler, model, keep_alive_ns=9 * MINUTE_NS)
                before = machine.num_reads
                await until(lambda before=before: machine.num_reads > before)  # type: ignore[misc]
                await touch(scheduler, model, keep_alive_ns=0)
                await until(lambda: not scheduler.loaded())

    run(scenario())


def test_a_load_ends_the_pause_that_plenty_of_memory_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "LONGEST_POLL_S", 3600.0)
    monkeypatch.setattr(pressure, "TAKEN_A_SECOND", 1)

    async def scenario() -> None:
        machine = Machine(free_bytes=30 * GIB, total_bytes=32 * GIB)
        async with machine.watched() as (scheduler, _):
            await touch(scheduler, A)
            await until(lambda: machine.num_reads == 1)
            await touch(scheduler, B)
            await until(lambda: machine.num_reads == 2)

    run(scenario())


def test_a_model_that_had_to_go_makes_those_that_come_leave_its_room_free() -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, watch):
            await touch(scheduler, A)
            assert watch.spare_bytes() == 0
            machine.free_bytes = 40 * MIB
            await until(lambda: not machine.stage.living)
            assert watch.spare_bytes() == machine.stage.model_bytes

    run(scenario())


def test_the_log_tells_why_a_model_went(caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        return [record.message for record in caplog.records if "memory is short" in record.message]

    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, _):
            await touch(scheduler, A)
            machine.free_bytes = 40 * MIB
            await until(lambda: not machine.stage.living)

    caplog.set_level("INFO")
    run(scenario())
    assert lines() == ["memory is short (10 MiB of 1.0 GiB available to the machine): a:latest is idle and goes"]


def test_a_reading_that_fails_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        machine = Machine()
        async with machine.watched() as (scheduler, _):
            await touch(scheduler, A)
            machine.stage.runners[0].loaded = None  # type: ignore[assignment]
            machine.free_bytes = 40 * MIB
            await until(lambda: "memory could not be relieved" in caplog.text)
            num_reads = machine.num_reads
            await until(lambda: machine.num_reads > num_reads)

    run(scenario())
