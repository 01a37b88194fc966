from __future__ import annotations

import pytest

from hearthd.errors import RunnerOutgrown
from hearthd.store.needs import needs
from tests.hearthd.scheduler.stage import Stage, run, stored, touch, until

A, B = stored("a"), stored("b")


def test_a_runner_may_take_a_quarter_more_than_its_model_needs() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(num_ctx=2048, num_parallel=2)
        await touch(scheduler, A)
        load = stage.runners[0].load
        assert load.limit_bytes > 1.25 * needs(stage.info, num_ctx=2048, num_slots=2).total_bytes
        await scheduler.stop()

    run(scenario())


def test_a_load_that_outgrew_its_limit_is_tried_again_with_more_and_others_stay() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        stage.failures = [RunnerOutgrown(stage.runners[0].load.limit_bytes)]
        await touch(scheduler, B)
        first, second = (runner.load for runner in stage.runners)
        assert second.limit_bytes > 1.25 * first.limit_bytes
        assert (second.num_ctx, second.num_slots) == (first.num_ctx, first.num_slots)
        assert stage.living == ["a:latest", "b:latest"]
        assert scheduler.counts().crashes == 0
        await scheduler.stop()

    run(scenario())


def test_a_load_that_outgrew_its_limit_twice_has_failed_and_says_why() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        stage.failures = [RunnerOutgrown(500 << 20), RunnerOutgrown(900 << 20)]
        with pytest.raises(RunnerOutgrown, match="outgrew its limit of 900 MiB and was killed"):
            await touch(scheduler, A)
        assert stage.runners == []
        assert scheduler.counts().crashes == 1
        await scheduler.stop()

    run(scenario())


def test_where_there_is_no_room_for_more_the_model_gets_what_it_had() -> None:
    async def scenario() -> None:
        stage = Stage(available_bytes=200 << 20)
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        limit_bytes = stage.runners[0].load.limit_bytes
        stage.runners[0].dies(RunnerOutgrown(limit_bytes))
        await touch(scheduler, A)
        assert [runner.load.limit_bytes for runner in stage.runners] == [limit_bytes, limit_bytes]
        stage.runners[1].dies(RunnerOutgrown(limit_bytes))
        await until(lambda: not scheduler.loaded())
        stage.failures = [RunnerOutgrown(limit_bytes)]
        with pytest.raises(RunnerOutgrown):
            await touch(scheduler, A)
        await scheduler.stop()

    run(scenario())


def test_a_model_whose_runner_outgrew_its_limit_in_use_gets_more_the_next_time_and_once() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        limits: list[int] = []
        for _ in range(3):
            await touch(scheduler, A)
            limits.append(stage.runners[-1].load.limit_bytes)
            stage.runners[-1].num_answered = 1
            stage.runners[-1].dies(RunnerOutgrown(limits[-1]))
            await until(lambda: scheduler.counts().crashes == len(limits))
        assert limits[0] < limits[1] == limits[2]
        await scheduler.stop()

    run(scenario())
