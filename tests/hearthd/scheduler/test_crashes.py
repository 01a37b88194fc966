from __future__ import annotations

import asyncio

import pytest

from hearthd.duration import MINUTE_NS, SECOND_NS
from hearthd.errors import LoadFailed, LoadStalled, Overloaded, RunnerDied
from hearthd.scheduler import crashes as crashes_module
from hearthd.scheduler.crashes import Crashes
from tests.hearthd.scheduler.stage import Stage, hold, refusal, run, stored, touch, until

A, B = stored("a"), stored("b")
SEGFAULT = "the model runner ended unexpectedly (killed by SIGSEGV)"


def pauses_s(crashes: Crashes, num: int, *, was_of_use: bool = False) -> list[float]:
    """Of `num` crashes, each as soon as the model may be loaded again."""
    now_ns, pauses = 0, []
    for _ in range(num):
        crash = crashes.add("a", "x", now_ns, was_of_use=was_of_use)
        pauses.append((crash.retry_at_ns - now_ns) / SECOND_NS)
        now_ns = crash.retry_at_ns
    return pauses


def test_after_the_first_crash_pauses_double_up_to_a_minute() -> None:
    assert pauses_s(Crashes(), 10) == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_runner_that_had_answered_pauses_two_seconds_at_most() -> None:
    assert pauses_s(Crashes(), 5, was_of_use=True) == [0, 1, 2, 2, 2]


def test_a_thousand_crashes_cost_no_more_than_ten() -> None:
    assert pauses_s(Crashes(), 1000)[-1] == 60


def test_a_minute_without_a_crash_forgets_all() -> None:
    crashes = Crashes()
    crash = crashes.add("a", "x", 0)
    crash = crashes.add("a", "x", 59 * SECOND_NS)
    assert crash.count == 2
    assert crashes.add("a", "x", crash.retry_at_ns + MINUTE_NS).count == 1


def test_models_do_not_pay_for_each_other_and_forgotten_ones_take_no_memory() -> None:
    crashes = Crashes()
    for number in range(100):
        assert crashes.add(f"model {number}", "x", 0).count == 1
    assert len(crashes) == 100
    crashes.add("other", "x", 2 * MINUTE_NS)
    assert len(crashes) == 1


def test_a_crash_is_pending_until_its_pause_is_over() -> None:
    crashes = Crashes()
    crashes.add("a", "x", 0)
    assert crashes.pending("a", 0) is None
    crashes.add("a", SEGFAULT, 0)
    pending = crashes.pending("a", SECOND_NS - 1)
    assert pending is not None
    assert pending.sentence(1) == f"the model crashed 2 times in a row; it may be loaded again in 1 s ({SEGFAULT})"
    assert crashes.pending("a", SECOND_NS) is None
    assert crashes.pending("b", 0) is None


# through the scheduler


async def crash(stage: Stage) -> None:
    """The runner loaded last dies, and this is noticed."""
    stage.runners[-1].dies(RunnerDied(SEGFAULT))
    await asyncio.sleep(0.02)


def test_after_one_crash_the_next_request_loads_at_once_and_after_two_it_waits() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        await crash(stage)
        await touch(scheduler, A)
        await crash(stage)
        waiting = hold(scheduler, A)
        await asyncio.sleep(0.1)
        assert len(stage.runners) == 2
        await until(lambda: waiting.lease)
        await waiting.let_go()
        assert len(stage.runners) == 3
        assert (scheduler.counts().crashes, scheduler.counts().loads) == (2, 3)
        await scheduler.stop()

    run(scenario())


def test_a_model_that_crashes_again_and_again_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(crashes_module, "FIRST_PAUSE_NS", 30 * SECOND_NS)
        stage = Stage()
        scheduler = stage.scheduler()
        for _ in range(2):
            await touch(scheduler, A)
            await crash(stage)
        with pytest.raises(LoadFailed, match=r"crashed 2 times in a row; it may be loaded again in 30 s \(.*SIGSEGV"):
            await touch(scheduler, A)
        await touch(scheduler, B)
        assert stage.living == ["b:latest"]
        await scheduler.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("failure", "counts"), [(RunnerDied(SEGFAULT), 1), (LoadStalled("no progress"), 1), (refusal(), 0)]
)
def test_dying_or_stalling_while_loading_is_a_crash_a_refusal_is_not(
    failure: LoadFailed, counts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(crashes_module, "FIRST_PAUSE_NS", 30 * SECOND_NS)
        stage = Stage()
        scheduler = stage.scheduler(num_ctx=64)
        for _ in range(2):
            stage.failures = [failure] * 9
            with pytest.raises(type(failure), match=str(failure).partition("(")[0]):
                await touch(scheduler, A)
        assert scheduler.counts().crashes == 2 * counts
        stage.failures = []
        if counts:
            with pytest.raises(LoadFailed, match="crashed 2 times"):
                await touch(scheduler, A)
        else:
            await touch(scheduler, A)
        await scheduler.stop()

    run(scenario())


def test_an_unload_is_no_crash() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=1)
        await touch(scheduler, A, keep_alive_ns=0)
        await touch(scheduler, A)
        await touch(scheduler, B)
        scheduler.expire(B)
        await scheduler.stop()
        assert (scheduler.counts().crashes, scheduler.counts().loads) == (0, 3)

    run(scenario())


def test_requests_that_wait_for_a_crashed_model_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(crashes_module, "FIRST_PAUSE_NS", 4 * SECOND_NS)
        stage = Stage()
        scheduler = stage.scheduler(max_queue=2)
        for _ in range(2):
            await touch(scheduler, A)
            await crash(stage)
        waiting = [hold(scheduler, A) for _ in range(2)]
        await asyncio.sleep(0.02)
        with pytest.raises(Overloaded):
            await touch(scheduler, B)
        for holder in waiting:
            await holder.vanish()
        await touch(scheduler, B)
        await scheduler.stop()

    run(scenario())


def test_those_who_waited_for_a_busy_runner_that_crashes_are_served_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(crashes_module, "FIRST_PAUSE_NS", SECOND_NS // 5)
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=1)
        await touch(scheduler, A)
        await crash(stage)
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        other, late = hold(scheduler, B), hold(scheduler, A)
        await until(lambda: stage.prepared[-1] == "b:latest")
        stage.runners[-1].dies(RunnerDied(SEGFAULT))
        await until(lambda: other.lease)
        await busy.let_go()
        await other.let_go()
        await until(lambda: late.lease)
        await late.let_go()
        await scheduler.stop()

    run(scenario())
