from __future__ import annotations

import asyncio
import time

import pytest

from tests.hearthd.scheduler.stage import (
    MINUTE_NS,
    Stage,
    hold,
    run,
    stored,
    touch,
    until,
)

A, B, C = stored("a"), stored("b"), stored("c")
MS_NS = 1_000_000


def test_a_second_request_uses_the_loaded_model() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        first, second = await touch(scheduler, A), await touch(scheduler, A)
        assert first.runner is second.runner
        await scheduler.stop()

    run(scenario())


def test_the_clock_starts_at_the_end_of_the_last_request() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(keep_alive_ns=30 * MS_NS)
        holder = hold(scheduler, A)
        await until(lambda: holder.lease)
        await asyncio.sleep(0.1)
        assert stage.living == ["a:latest"]
        await holder.let_go()
        await until(lambda: not stage.living)
        assert scheduler.loaded() == []
        await scheduler.stop()

    run(scenario())


def test_a_request_within_the_time_stops_the_clock() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(keep_alive_ns=50 * MS_NS)
        await touch(scheduler, A)
        holder = hold(scheduler, A)
        await asyncio.sleep(0.15)
        assert stage.living == ["a:latest"]
        await holder.let_go()
        await until(lambda: not stage.living)
        await scheduler.stop()

    run(scenario())


def test_keep_alive_zero_unloads_after_the_last_of_two_requests() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        first, second = hold(scheduler, A), hold(scheduler, A, keep_alive_ns=0)
        await until(lambda: first.lease and second.lease)
        await second.let_go()
        assert stage.living == ["a:latest"]
        await first.let_go()
        await until(lambda: not stage.living)
        await scheduler.stop()

    run(scenario())


def test_a_request_without_keep_alive_leaves_the_duration_as_it_is() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A, keep_alive_ns=60 * MINUTE_NS)
        await touch(scheduler, A)
        [status] = scheduler.loaded()
        assert status.expires_at_ns is not None
        assert status.expires_at_ns > time.time_ns() + 50 * MINUTE_NS
        await scheduler.stop()

    run(scenario())


def test_a_new_load_gets_the_default_duration() -> None:
    async def scenario() -> None:
        scheduler = Stage().scheduler(keep_alive_ns=5 * MINUTE_NS)
        await touch(scheduler, A)
        [status] = scheduler.loaded()
        assert status.expires_at_ns is not None
        assert abs(status.expires_at_ns - time.time_ns() - 5 * MINUTE_NS) < MINUTE_NS
        await scheduler.stop()

    run(scenario())


@pytest.mark.parametrize("keep_alive_ns", [-1, -(2**63), 2**63 - 1, 2**70])
def test_negative_and_huge_durations_are_for_ever(keep_alive_ns: int) -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A, keep_alive_ns=keep_alive_ns)
        [status] = scheduler.loaded()
        assert status.expires_at_ns is None
        assert stage.living == ["a:latest"]
        await scheduler.stop()

    run(scenario())


def test_expire_unloads_an_idle_model_at_once() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        scheduler.expire(A)
        assert scheduler.loaded() == []
        await until(lambda: not stage.living)
        await scheduler.stop()

    run(scenario())


def test_expire_lets_the_running_request_finish() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        holder = hold(scheduler, A)
        await until(lambda: holder.lease)
        scheduler.expire(A)
        await asyncio.sleep(0.05)
        assert stage.living == ["a:latest"]
        await holder.let_go()
        await until(lambda: not stage.living)
        await scheduler.stop()

    run(scenario())


def test_expire_of_a_model_that_is_not_loaded_does_nothing() -> None:
    async def scenario() -> None:
        scheduler = Stage().scheduler()
        scheduler.expire(A)
        assert scheduler.loaded() == []
        await scheduler.stop()

    run(scenario())


def test_loaded_lists_the_longest_expiry_first_and_tells_sizes() -> None:
    async def scenario() -> None:
        stage = Stage(model_bytes=123)
        scheduler = stage.scheduler()
        await touch(scheduler, A, keep_alive_ns=1 * MINUTE_NS)
        await touch(scheduler, B, keep_alive_ns=-1)
        await touch(scheduler, C, keep_alive_ns=9 * MINUTE_NS)
        statuses = scheduler.loaded()
        assert [status.model.name.short for status in statuses] == ["b:latest", "c:latest", "a:latest"]
        assert {(status.size_bytes, status.num_ctx, status.loading) for status in statuses} == {(123, 2048, False)}
        await scheduler.stop()

    run(scenario())
