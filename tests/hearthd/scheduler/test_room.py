from __future__ import annotations

import asyncio

import pytest

from hearthd.errors import LoadFailed, RunnerDied, RunnerKilled
from hearthd.scheduler.lease import LoadOptions
from hearthd.store.needs import needs
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
WIDE = variant(num_layers=32, num_kv_heads=8, head_dim=64)  # 128 KiB of keys and values a token


def needed(num_ctx: int, num_slots: int = 1) -> int:
    return needs(WIDE, num_ctx=num_ctx, num_slots=num_slots).total_bytes


def shapes(stage: Stage) -> list[tuple[int, int]]:
    """(num_ctx, num_slots) of each load that succeeded."""
    return [(runner.load.num_ctx, runner.load.num_slots) for runner in stage.runners]


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


def test_figures_below_a_gibibyte_are_told_in_mebibytes() -> None:
    async def scenario() -> None:
        stage = Stage(info=WIDE, available_bytes=100 << 20)
        with pytest.raises(LoadFailed, match=r"system memory \(3\d\d MiB\) than is available \(100 MiB\)"):
            await touch(stage.scheduler(), A)

    run(scenario())


def test_a_window_that_nobody_asked_for_is_halved_until_it_fits_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        stage = Stage(info=WIDE, available_bytes=needed(4096) - 1)
        scheduler = stage.scheduler(num_ctx=8192)
        await touch(scheduler, A)
        assert shapes(stage) == [(2048, 1)]
        assert [status.num_ctx for status in scheduler.loaded()] == [2048]
        await touch(scheduler, A)
        assert len(stage.runners) == 1
        await scheduler.stop()

    run(scenario())
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "a:latest gets num_ctx 2048 in 1 slots instead of 8192 in 1, which need 1.1 GiB" in warning
    assert f"where {needed(4096) - 1 >> 20} MiB are available" in warning


def test_a_window_that_was_asked_for_is_never_shortened() -> None:
    async def scenario() -> None:
        stage = Stage(info=WIDE, available_bytes=needed(4096) - 1)
        with pytest.raises(LoadFailed, match="requires more system memory"):
            await touch(stage.scheduler(), A, LoadOptions(num_ctx=4096))
        assert not stage.runners

    run(scenario())


def test_slots_are_given_up_before_the_window_is_shortened() -> None:
    async def scenario() -> None:
        stage = Stage(info=WIDE, available_bytes=needed(4096, 2))
        scheduler = stage.scheduler(num_ctx=4096, num_parallel=4)
        await touch(scheduler, A)
        await touch(scheduler, B, LoadOptions(num_ctx=4096))
        assert shapes(stage) == [(4096, 2), (4096, 2)]
        await scheduler.stop()

    run(scenario())


def test_idle_models_go_before_the_window_is_shortened() -> None:
    async def scenario() -> None:
        stage = Stage(model_bytes=0)
        scheduler = stage.scheduler(num_ctx=4096)
        await touch(scheduler, A)
        stage.info, stage.available_bytes = WIDE, needed(4096)  # a tenth too little beside another one
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]
        assert shapes(stage)[1] == (4096, 1)
        await scheduler.stop()

    run(scenario())


def test_a_bound_on_memory_holds_for_all_models_together() -> None:
    async def scenario() -> None:
        stage = Stage(info=WIDE, model_bytes=needed(2048))
        scheduler = stage.scheduler(memory_bytes=2 * needed(2048))
        await touch(scheduler, A)
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]  # a tenth must stay free
        with pytest.raises(LoadFailed, match="requires more system memory"):
            await touch(scheduler, C, LoadOptions(num_ctx=8192))
        assert stage.living == ["b:latest"]
        await scheduler.stop()

    run(scenario())


def test_memory_that_must_stay_free_beside_others_makes_them_leave() -> None:
    async def scenario() -> None:
        stage = Stage(info=WIDE, available_bytes=10 * needed(2048))
        scheduler = stage.scheduler(spare=lambda: 9 * needed(2048) + 1)
        await touch(scheduler, A)
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]
        await scheduler.stop()

    run(scenario())


def test_a_runner_that_dies_while_loading_alone_is_tried_again_with_the_shortest_window() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(num_ctx=8192, num_parallel=2)
        await touch(scheduler, A)
        stage.failures = [RunnerKilled("killed"), RunnerKilled("killed")]
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]
        assert shapes(stage) == [(8192, 2), (2048, 1)]
        stage.failures = [RunnerKilled("killed")] * 3
        with pytest.raises(RunnerDied):
            await touch(scheduler, C)
        assert not stage.failures
        await scheduler.stop()

    run(scenario())


def test_a_runner_that_dies_while_loading_makes_the_others_give_room_once() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        stage.failures = [RunnerKilled("killed")]
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]
        await scheduler.stop()

    run(scenario())


def test_a_runner_that_crashes_while_loading_costs_no_other_model_its_place() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        stage.failures = [RunnerDied("killed by SIGSEGV")]
        with pytest.raises(RunnerDied, match="SIGSEGV"):
            await touch(scheduler, B)
        assert stage.living == ["a:latest"]
        await scheduler.stop()

    run(scenario())


def test_alone_a_runner_that_dies_while_loading_is_an_error() -> None:
    async def scenario() -> None:
        stage = Stage(failures=[RunnerKilled("killed")])
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
