from __future__ import annotations

import asyncio

import pytest

from hearthd.errors import LoadFailed, Overloaded
from hearthd.scheduler.lease import LoadOptions
from tests.hearthd.scheduler.stage import (
    CONTEXT_LENGTH,
    Stage,
    hold,
    run,
    stored,
    touch,
    until,
    variant,
)

A, B, C = stored("a"), stored("b"), stored("c")


# load options


def test_a_changed_load_option_reloads_when_the_old_one_is_idle() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        old = hold(scheduler, A)
        await until(lambda: old.lease)
        new = hold(scheduler, A, LoadOptions(num_ctx=512))
        await asyncio.sleep(0.05)
        assert new.lease is None
        await old.let_go()
        await until(lambda: new.lease)
        assert [runner.load.num_ctx for runner in stage.runners] == [2048, 512]
        assert stage.living == ["a:latest"]
        await new.let_go()
        await scheduler.stop()

    run(scenario())


def test_a_reload_that_cannot_fit_leaves_the_loaded_model_in_place() -> None:
    async def scenario() -> None:
        stage = Stage(info=variant(num_layers=128, head_dim=1024))
        scheduler = stage.scheduler(num_ctx=64)
        await touch(scheduler, A)
        stage.available_bytes = 1 << 30
        with pytest.raises(LoadFailed, match="more system memory"):
            await touch(scheduler, A, LoadOptions(num_ctx=CONTEXT_LENGTH))
        assert stage.living == ["a:latest"]
        assert (await touch(scheduler, A)).runner is stage.runners[0]
        await scheduler.stop()

    run(scenario())


def test_a_request_that_does_not_ask_for_num_ctx_takes_what_is_loaded() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A, LoadOptions(num_ctx=CONTEXT_LENGTH))
        lease = await touch(scheduler, A)
        assert lease.runner.loaded.num_ctx == CONTEXT_LENGTH > 2048
        assert len(stage.runners) == 1
        await scheduler.stop()

    run(scenario())


def test_a_request_that_does_not_ask_for_num_ctx_gets_no_less_than_the_default() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A, LoadOptions(num_ctx=512))
        lease = await touch(scheduler, A)
        assert lease.runner.loaded.num_ctx == 2048
        assert len(stage.runners) == 2
        await scheduler.stop()

    run(scenario())


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(num_ctx=512),
        LoadOptions(num_batch=64),
        LoadOptions(num_thread=1),
        LoadOptions(use_mmap=False),
        LoadOptions(use_mlock=True),
        LoadOptions(vocab_only=True),
    ],
)
def test_each_load_option_loads_once_more_and_reaches_the_runner(options: LoadOptions) -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        await touch(scheduler, A, options)
        await touch(scheduler, A, options)
        first, second = (LoadOptions.of(runner.load) for runner in stage.runners)
        assert options.met_by(second) and not options.met_by(first)
        await scheduler.stop()

    run(scenario())


def test_after_vocab_only_a_request_that_does_not_ask_for_it_loads_the_whole_model() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A, LoadOptions(vocab_only=True))
        await touch(scheduler, A)
        assert [runner.load.vocab_only for runner in stage.runners] == [True, False]
        await scheduler.stop()

    run(scenario())


def test_a_vocabulary_needs_no_room_for_weights() -> None:
    async def scenario() -> None:
        stage = Stage(available_bytes=100 << 20, info=variant(weight_bytes=1 << 30))
        scheduler = stage.scheduler()
        await touch(scheduler, A, LoadOptions(vocab_only=True))
        with pytest.raises(LoadFailed, match="more system memory"):
            await touch(scheduler, A)
        await scheduler.stop()

    run(scenario())


@pytest.mark.parametrize(("accelerated", "loads"), [(False, [-1]), (True, [-1, 0, 20])])
def test_num_gpu_reloads_only_where_the_placement_would_differ(accelerated: bool, loads: list[int]) -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(accelerated=accelerated)
        for num_gpu in (None, -1, 0, 0, -1, 20, None):
            await touch(scheduler, A, LoadOptions(num_gpu=num_gpu))
        assert [runner.load.num_gpu for runner in stage.runners] == loads
        await scheduler.stop()

    run(scenario())


def test_numbers_out_of_range_load_and_asking_again_reloads_nothing() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        most, least = 2**63 - 1, -(2**63)
        for number in (most, least, 0):
            options = LoadOptions(num_ctx=number, num_batch=number, num_thread=number, num_gpu=number)
            await touch(scheduler, A, options)
            await touch(scheduler, A, options)
        loads = [(runner.load.num_ctx, runner.load.num_batch) for runner in stage.runners]
        assert loads == [(CONTEXT_LENGTH, CONTEXT_LENGTH), (4, 1)]
        await scheduler.stop()

    run(scenario())


def test_num_ctx_beyond_the_models_own_is_cut_and_asking_again_reloads_nothing() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(num_ctx=10**6)
        await touch(scheduler, A)
        await touch(scheduler, A, LoadOptions(num_ctx=10**7))
        assert [runner.load.num_ctx for runner in stage.runners] == [CONTEXT_LENGTH]
        await scheduler.stop()

    run(scenario())


def test_two_names_of_one_checkpoint_share_a_runner() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        first = await touch(scheduler, stored("one", checkpoint="same"))
        second = await touch(scheduler, stored("two", checkpoint="same"))
        assert first.runner is second.runner
        assert second.model.name.short == "two:latest"
        await scheduler.stop()

    run(scenario())


# the end


def test_a_draining_scheduler_refuses_and_unloads_what_is_idle() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        busy = hold(scheduler, B)
        await until(lambda: busy.lease)
        scheduler.start_drain()
        with pytest.raises(Overloaded, match="stopping"):
            await touch(scheduler, B)
        await until(lambda: stage.living == ["b:latest"])
        await busy.let_go()
        await until(lambda: not stage.living)
        await scheduler.stop()

    run(scenario())


def test_drain_answers_those_who_wait_and_aborts_the_load() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        waiting = [hold(scheduler, A), hold(scheduler, B)]
        await until(lambda: stage.prepared)
        scheduler.start_drain()
        answers = await asyncio.gather(*(holder.task for holder in waiting), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Overloaded, Overloaded]
        await scheduler.stop()
        assert stage.aborted == ["a:latest"]

    run(scenario())


def test_stop_waits_for_running_requests_within_the_time() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        stopping = asyncio.ensure_future(scheduler.stop(30.0))
        await asyncio.sleep(0.05)
        assert stage.living == ["a:latest"]
        await busy.let_go()
        await stopping
        assert stage.runners[0].reason is None

    run(scenario())


def test_stop_ends_late_requests_with_a_reason() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        await scheduler.stop(0.02)
        assert not stage.living
        assert isinstance(stage.runners[0].reason, Overloaded)
        await busy.let_go()

    run(scenario())
