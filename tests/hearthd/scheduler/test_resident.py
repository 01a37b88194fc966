"""Loaded models as the watcher of memory and the log see them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hearthd.engine.frames import Load
from hearthd.errors import RunnerDied
from hearthd.scheduler import resident as resident_module
from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.resident import Counts
from tests.hearthd.scheduler.stage import MINUTE_NS, Stage, ToyRunner, hold, run, stored, touch, until

A, B, C = stored("a"), stored("b"), stored("c")


def test_idle_models_come_soonest_expiry_first_and_busy_ones_not_at_all() -> None:
    async def scenario() -> None:
        scheduler = Stage().scheduler(max_loaded=9)
        await touch(scheduler, A, keep_alive_ns=-1)
        await touch(scheduler, B, keep_alive_ns=9 * MINUTE_NS)
        await touch(scheduler, C, keep_alive_ns=2 * MINUTE_NS)
        busy = hold(scheduler, stored("d"))
        await until(lambda: busy.lease)
        assert [loaded.model.name.short for loaded in scheduler.idle()] == ["c:latest", "b:latest", "a:latest"]
        await busy.let_go()
        await scheduler.stop()

    run(scenario())


def test_relief_unloads_an_idle_model_without_saving_and_returns_when_it_is_gone() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        [loaded] = scheduler.idle()
        await scheduler.relieve(loaded, "pressure")
        assert (stage.living, scheduler.loaded(), stage.runners[0].saved) == ([], [], False)
        await scheduler.relieve(loaded, "pressure")
        assert scheduler.counts() == Counts(loads=1, reliefs=1)
        await scheduler.stop()

    run(scenario())


def test_relief_leaves_a_model_alone_that_got_a_user_meanwhile() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        [loaded] = scheduler.idle()
        user = hold(scheduler, A)
        await until(lambda: user.lease)
        await scheduler.relieve(loaded, "pressure")
        assert stage.living == ["a:latest"]
        await user.let_go()
        assert stage.living == ["a:latest"]
        assert scheduler.counts().reliefs == 0
        await scheduler.stop()

    run(scenario())


def test_trim_reaches_every_runner_and_adds_up_what_they_gave_back() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        assert await scheduler.trim(1) == 0
        await touch(scheduler, A)
        await touch(scheduler, B)
        for runner, size in zip(stage.runners, (100, 23), strict=True):
            runner.released_bytes = size
        assert await scheduler.trim(2) == 123
        assert [runner.trims for runner in stage.runners] == [[2], [2]]
        await scheduler.stop()

    run(scenario())


class StuckRunner(ToyRunner):
    """Never says what it gave back."""

    async def trim(self, level: int) -> int:
        await asyncio.Event().wait()
        return 0


class DyingRunner(ToyRunner):
    """Dies of being asked."""

    async def trim(self, level: int) -> int:
        raise RunnerDied("gone")


def test_a_runner_that_does_not_answer_a_trim_or_dies_of_it_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = iter((StuckRunner, ToyRunner, DyingRunner))

    class OddStage(Stage):
        async def _spawn(self, load: Load) -> ToyRunner:
            runner = next(kinds)(load, 100)
            runner.released_bytes = 7
            self.runners.append(runner)
            return runner

    async def scenario() -> None:
        monkeypatch.setattr(resident_module, "TRIM_TIMEOUT_S", 0.05)
        scheduler = OddStage().scheduler()
        for model in (A, B, C):
            await touch(scheduler, model)
        assert await scheduler.trim(1) == 7
        await scheduler.stop()

    run(scenario())


@pytest.mark.parametrize("why", ["expired", "asked", "evicted", "reloaded", "drained"])
def test_a_voluntary_unload_saves(why: str) -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=1)
        await touch(scheduler, A, keep_alive_ns=1_000_000 if why == "expired" else None)
        if why == "asked":
            scheduler.expire(A)
        elif why == "evicted":
            await touch(scheduler, B)
        elif why == "reloaded":
            await touch(scheduler, A, LoadOptions(num_ctx=512))
        elif why == "drained":
            scheduler.start_drain()
        await until(lambda: not stage.runners[0].alive)
        assert stage.runners[0].saved
        await scheduler.stop()

    run(scenario())


def test_a_request_cut_off_by_the_stop_saves_nothing() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        await scheduler.stop(0.01)
        assert not stage.runners[0].saved
        await busy.let_go()

    run(scenario())


def test_what_happened_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stage = Stage(model_bytes=5 << 20)
        scheduler = stage.scheduler(max_loaded=1)
        await touch(scheduler, A)
        await touch(scheduler, B)
        await touch(scheduler, A)
        stage.runners[-1].dies(RunnerDied("the reason"))
        await until(lambda: scheduler.counts().crashes)
        await touch(scheduler, C, keep_alive_ns=1_000_000)
        await until(lambda: scheduler.counts().expiries)
        assert scheduler.counts() == Counts(loads=4, evictions=2, expiries=1, crashes=1)
        await scheduler.stop()

    with caplog.at_level(logging.INFO):
        run(scenario())
    lines = caplog.messages
    assert any(line.startswith("evict b:latest: 5 MiB, ") and line.endswith("2 evictions so far") for line in lines)
    assert any(line.startswith("expire c:latest: 5 MiB, ") and line.endswith("1 expiries so far") for line in lines)
    assert "crash a:latest: the reason; 1 in a row, 1 so far" in lines


def test_a_runner_that_died_unnoticed_is_a_crash_even_if_it_is_unloaded_now() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        stage.runners[0].dies(RunnerDied("x"))
        scheduler.expire(A)
        await touch(scheduler, A)
        assert scheduler.counts() == Counts(loads=2, crashes=1)
        await scheduler.stop()

    run(scenario())
