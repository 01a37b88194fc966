from __future__ import annotations

import asyncio

import pytest

from hearthd.errors import LoadFailed, RunnerDied
from tests.hearthd.scheduler.stage import (
    MINUTE_NS,
    Stage,
    hold,
    run,
    stored,
    touch,
    until,
    variant,
)

A, B, C = stored("a"), stored("b"), stored("c")


def test_beyond_max_loaded_the_idle_model_of_the_shortest_duration_is_evicted() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=2)
        await touch(scheduler, A, keep_alive_ns=9 * MINUTE_NS)
        await touch(scheduler, B, keep_alive_ns=1 * MINUTE_NS)
        await touch(scheduler, C)
        assert sorted(stage.living) == ["a:latest", "c:latest"]
        await scheduler.stop()

    run(scenario())


def test_when_all_are_busy_the_new_model_waits_for_one_to_finish() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=1)
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        waiting = hold(scheduler, B)
        await until(lambda: len(stage.prepared) == 2)
        late = hold(scheduler, A)  # must not keep A busy for ever
        await asyncio.sleep(0.05)
        assert waiting.lease is None
        await busy.let_go()
        await until(lambda: waiting.lease)
        assert late.lease is None
        await waiting.let_go()
        await until(lambda: late.lease)
        await late.let_go()
        await scheduler.stop()

    run(scenario())


def test_a_client_that_gives_up_waiting_for_room_leaves_the_busy_model_usable() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=1)
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        waiting = hold(scheduler, B)
        await until(lambda: len(stage.prepared) == 2)
        await asyncio.sleep(0.05)
        await waiting.vanish()
        await busy.let_go()
        await touch(scheduler, A)
        assert len(stage.runners) == 1
        await scheduler.stop()

    run(scenario())


def test_a_model_that_cannot_fit_is_refused_with_figures_and_evicts_nobody() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        stage.info = variant(weight_bytes=50 << 30)
        stage.available_bytes = 2 << 30
        with pytest.raises(
            LoadFailed, match=r"requires more system memory \(50\.1 GiB\) than is available \(2\.0 GiB\)"
        ):
            await touch(scheduler, B)
        assert stage.living == ["a:latest"]
        await scheduler.stop()

    run(scenario())


def test_a_runner_that_dies_while_loading_makes_the_others_give_room_once() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        stage.failures = [RunnerDied("killed")]
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]
        await scheduler.stop()

    run(scenario())


def test_alone_a_runner_that_dies_while_loading_is_an_error() -> None:
    async def scenario() -> None:
        stage = Stage(failures=[RunnerDied("killed")])
        scheduler = stage.scheduler()
        with pytest.raises(RunnerDied):
            await touch(scheduler, A)
        await scheduler.stop()

    run(scenario())


def test_a_dead_runner_is_dropped_and_the_next_request_loads_again() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        holder = hold(scheduler, A)
        await until(lambda: holder.lease)
        stage.runners[0].dies()
        await until(lambda: not scheduler.loaded())
        await holder.let_go()
        lease = await touch(scheduler, A)
        assert lease.runner is stage.runners[1]
        await scheduler.stop()

    run(scenario())
