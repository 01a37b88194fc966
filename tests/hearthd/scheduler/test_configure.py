from __future__ import annotations

import asyncio

import pytest

from hearthd.errors import Overloaded
from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.loading import LoadDefaults
from hearthd.scheduler.scheduler import Scheduler
from tests.hearthd.scheduler.stage import MINUTE_NS, Stage, hold, run, stored, touch, until

A, B = stored("a"), stored("b")


class Unequal(LoadOptions, frozen=True):
    """Options whose comparison fails: a fault in the daemon."""

    def met_by(self, other: LoadOptions) -> bool:
        raise RuntimeError("out of order")


# settings taken up while it runs


def test_new_defaults_are_for_new_loads_and_loaded_models_keep_theirs() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(num_ctx=1024)
        await touch(scheduler, A)
        scheduler.configure(LoadDefaults(keep_alive_ns=-1, num_ctx=4096), max_queue=512)
        await touch(scheduler, A)
        await touch(scheduler, B)
        assert [runner.load.num_ctx for runner in stage.runners] == [1024, 4096]
        by_name = {status.model.name.short: status.expires_at_ns for status in scheduler.loaded()}
        assert by_name["a:latest"] is not None
        assert by_name["b:latest"] is None
        await scheduler.stop()

    run(scenario())


def test_a_shorter_queue_refuses_from_now_on() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        waiting = hold(scheduler, A)
        await until(lambda: scheduler.num_waiting == 1)
        scheduler.configure(LoadDefaults(keep_alive_ns=MINUTE_NS), max_queue=1)
        with pytest.raises(Overloaded):
            await touch(scheduler, B)
        await waiting.vanish()
        await scheduler.stop()

    run(scenario())


# durations by name


def test_a_model_with_a_duration_of_its_own_stays_that_long_where_no_request_says() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(keep_alive_ns=0)
        own = {"a:latest": -1, "b:latest": 5 * MINUTE_NS}
        scheduler.configure(LoadDefaults(keep_alive_ns=0, keep_alive_by_name=own), max_queue=8)
        await touch(scheduler, A)
        await touch(scheduler, B, keep_alive_ns=0)
        await until(lambda: stage.living == ["a:latest"])
        assert [status.expires_at_ns for status in scheduler.loaded()] == [None]
        await scheduler.stop()

    run(scenario())


def test_a_load_under_way_shows_the_duration_that_the_model_will_have() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        scheduler.configure(LoadDefaults(keep_alive_ns=0, keep_alive_by_name={"a:latest": -1}), max_queue=8)
        waiting = hold(scheduler, A)
        await until(scheduler.loaded)
        assert [(status.loading, status.expires_at_ns) for status in scheduler.loaded()] == [(True, None)]
        await waiting.vanish()
        await scheduler.stop()

    run(scenario())


# what it tells of itself


def test_every_change_of_what_is_loaded_loading_or_waiting_is_told() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler(keep_alive_ns=1)
        seen: list[tuple[tuple[str, ...], int]] = []

        def look(scheduler: Scheduler = scheduler) -> None:
            names = (f"{status.model.name.short} {status.loading}" for status in scheduler.loaded())
            seen.append((tuple(names), scheduler.num_waiting))

        def last() -> tuple[tuple[str, ...], int]:
            return seen[-1]

        scheduler.changed = look
        first = hold(scheduler, A)
        await until(scheduler.loaded)
        second = hold(scheduler, A)
        await until(lambda: scheduler.num_waiting == 2)
        assert last() == (("a:latest True",), 2)
        assert stage.gate is not None
        stage.gate.set()
        await until(lambda: first.lease and second.lease)
        assert last() == (("a:latest False",), 1)  # it has one slot
        await first.let_go()
        assert last() == (("a:latest False",), 0)
        await second.let_go()
        await until(lambda: not scheduler.loaded())
        assert last() == ((), 0)
        assert scheduler.num_waiting == 0
        await scheduler.stop()

    run(scenario())


def test_a_scheduler_that_works_is_not_stuck_and_one_whose_worker_died_says_why() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        assert scheduler.stuck() == ""
        first = hold(scheduler, A)
        await until(scheduler.loaded)
        second = hold(scheduler, A, Unequal())
        third = hold(scheduler, B)
        await until(lambda: scheduler.num_waiting == 3)
        assert scheduler.stuck() == ""
        assert stage.gate is not None
        stage.gate.set()
        await until(scheduler.stuck)
        assert "3 requests wait" in scheduler.stuck()
        assert "out of order" in scheduler.stuck()
        for holder in (first, second, third):
            await holder.vanish()
        await scheduler.stop()

    run(scenario())
