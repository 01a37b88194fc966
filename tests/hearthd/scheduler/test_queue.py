"""Requests that wait: for a load, for their turn, for a slot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from hearthd.errors import LoadFailed, Overloaded
from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import StoredModel
from tests.hearthd.scheduler.stage import Stage, hold, refusal, run, stored, touch, until, variant

A, B, C = stored("a"), stored("b"), stored("c")


def test_requests_for_one_model_share_its_load() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        holders = [hold(scheduler, A) for _ in range(5)]
        await until(lambda: stage.prepared)
        assert stage.gate is not None
        stage.gate.set()
        await until(lambda: all(holder.lease for holder in holders))
        assert len(stage.runners) == 1
        for holder in holders:
            await holder.let_go()
        await scheduler.stop()

    run(scenario())


def test_a_full_queue_refuses_with_the_known_sentence() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler(max_queue=2)
        holders = [hold(scheduler, A), hold(scheduler, B)]
        await until(lambda: stage.prepared)
        with pytest.raises(Overloaded, match=r"^server busy, please try again\.  maximum pending requests exceeded$"):
            await touch(scheduler, C)
        for holder in holders:
            await holder.vanish()
        await scheduler.stop()

    run(scenario())


def test_a_loaded_model_serves_while_another_loads() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_queue=1)
        await touch(scheduler, A)
        stage.gate = asyncio.Event()
        waiting = hold(scheduler, B)
        await until(lambda: len(stage.prepared) == 2)
        await touch(scheduler, A)
        assert waiting.lease is None
        stage.gate.set()
        await until(lambda: waiting.lease)
        await waiting.let_go()
        await scheduler.stop()

    run(scenario())


def test_requests_inside_one_model_are_bounded_too() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_queue=2)
        holders = [hold(scheduler, A)]
        await until(lambda: holders[0].lease)
        holders += [hold(scheduler, A) for _ in range(2)]
        await until(lambda: all(holder.lease for holder in holders))
        with pytest.raises(Overloaded):
            await touch(scheduler, A)
        for holder in holders:
            await holder.let_go()
        await scheduler.stop()

    run(scenario())


def test_a_load_that_nobody_waits_for_is_aborted_and_the_next_one_runs() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        gone, other = hold(scheduler, A), hold(scheduler, B)
        await until(lambda: stage.prepared == ["a:latest"])
        await gone.vanish()
        await until(lambda: stage.prepared == ["a:latest", "b:latest"])
        assert stage.aborted == ["a:latest"]
        assert stage.gate is not None
        stage.gate.set()
        await until(lambda: other.lease)
        assert stage.living == ["b:latest"]
        await other.let_go()
        await scheduler.stop()

    run(scenario())


def test_a_load_goes_on_while_one_of_two_clients_still_waits() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler()
        gone, other = hold(scheduler, A), hold(scheduler, A)
        await until(lambda: stage.prepared)
        await gone.vanish()
        assert stage.gate is not None
        stage.gate.set()
        await until(lambda: other.lease)
        assert stage.aborted == []
        assert stage.prepared == ["a:latest"]
        await other.let_go()
        await scheduler.stop()

    run(scenario())


def test_a_failed_load_answers_all_who_wait_for_it_and_the_next_request_tries_again() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event(), failures=[refusal()])
        scheduler = stage.scheduler()
        holders = [hold(scheduler, A) for _ in range(3)]
        await until(lambda: stage.prepared)
        assert stage.gate is not None
        stage.gate.set()
        answers = await asyncio.gather(*(holder.task for holder in holders), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["the toy does not load"] * 3
        await touch(scheduler, A)
        await scheduler.stop()

    run(scenario())


def test_an_unforeseen_error_while_loading_is_told_as_load_failure() -> None:
    async def scenario() -> None:
        stage = Stage(info=variant(kv_dtype="unheard of"))
        scheduler = stage.scheduler()
        with pytest.raises(LoadFailed, match="cannot be loaded"):
            await touch(scheduler, A)
        await scheduler.stop()

    run(scenario())


def test_waiting_for_a_load_and_for_a_slot_are_counted_together() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_queue=3, num_parallel=2)
        await touch(scheduler, A)
        holders = [hold(scheduler, A) for _ in range(4)]  # two have slots, two wait for one
        await until(lambda: all(holder.lease for holder in holders))
        stage.gate = asyncio.Event()
        loading = hold(scheduler, B)
        await until(lambda: len(stage.prepared) == 2)
        for model in (A, C):
            with pytest.raises(Overloaded, match="maximum pending requests exceeded"):
                await touch(scheduler, model)
        await holders.pop().let_go()
        holders.append(hold(scheduler, A))
        await until(lambda: holders[-1].lease)
        for holder in holders:
            await holder.let_go()
        await loading.vanish()
        await scheduler.stop()

    run(scenario())


def test_a_request_that_gets_a_slot_at_once_is_never_refused() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_queue=1, num_parallel=2)
        await touch(scheduler, A)
        stage.gate = asyncio.Event()
        loading = hold(scheduler, B)
        await until(lambda: len(stage.prepared) == 2)
        holders = [hold(scheduler, A) for _ in range(2)]
        await until(lambda: all(holder.lease for holder in holders))
        for holder in holders:
            await holder.let_go()
        await loading.vanish()
        await scheduler.stop()

    run(scenario())


# turns of models that do not fit together


@dataclass
class Turns:
    """Requests to a scheduler that has room for one model, and how many loads each of them saw pass."""

    stage: Stage = field(default_factory=Stage)
    waits: list[int] = field(default_factory=list)

    async def ask(self, scheduler: Scheduler, model: StoredModel, hold_s: float = 0.002) -> None:
        loads_before = len(self.stage.prepared)
        async with scheduler.lease(model, LoadOptions(), None) as lease:
            self.waits.append(len(self.stage.prepared) - loads_before)
            assert self.stage.living == [model.name.short]
            assert lease.runner is self.stage.runners[-1]
            await asyncio.sleep(hold_s)


def test_fifty_requests_to_two_models_in_turn_are_answered_in_two_turns() -> None:
    async def scenario() -> None:
        turns = Turns()
        scheduler = turns.stage.scheduler(max_loaded=1)
        await asyncio.gather(*(turns.ask(scheduler, model) for model in [A, B] * 25))
        assert len(turns.waits) == 50
        assert turns.stage.prepared == ["a:latest", "b:latest"]
        assert scheduler.counts().evictions == 1
        await scheduler.stop()

    run(scenario())


def test_clients_that_ask_again_and_again_wait_for_one_turn_of_each_other_model() -> None:
    async def client(turns: Turns, scheduler: Scheduler, model: StoredModel) -> None:
        for _ in range(10):
            await turns.ask(scheduler, model)

    async def scenario() -> None:
        turns = Turns()
        scheduler = turns.stage.scheduler(max_loaded=1)
        await asyncio.gather(*(client(turns, scheduler, model) for model in [A, A, A, B, B, C]))
        assert len(turns.waits) == 60
        assert max(turns.waits) <= 4  # the load under way, those of the two others, its own
        assert len(turns.stage.prepared) <= 33  # eleven turns each: a turn serves all who wait
        await scheduler.stop()

    run(scenario())


def test_requests_that_never_let_a_model_rest_do_not_starve_another() -> None:
    async def scenario() -> None:
        turns = Turns()
        scheduler = turns.stage.scheduler(max_loaded=1)

        async def relay(start_s: float) -> None:
            await asyncio.sleep(start_s)
            while len(turns.stage.prepared) < 3:  # until B has had its turn
                await turns.ask(scheduler, A, hold_s=0.02)

        relays = [asyncio.ensure_future(relay(start_s)) for start_s in (0.0, 0.007, 0.014)]
        await asyncio.sleep(0.03)
        await turns.ask(scheduler, B)
        await asyncio.gather(*relays)
        assert turns.stage.prepared[:2] == ["a:latest", "b:latest"]
        await scheduler.stop()

    run(scenario())


def test_a_client_that_leaves_the_queue_changes_nothing_for_the_others() -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler(max_loaded=1)
        first, gone, last = hold(scheduler, A), hold(scheduler, B), hold(scheduler, C)
        await until(lambda: stage.prepared)
        await gone.vanish()
        assert stage.gate is not None
        stage.gate.set()
        await until(lambda: first.lease)
        await first.let_go()
        await until(lambda: last.lease)
        assert stage.prepared == ["a:latest", "c:latest"]
        assert stage.aborted == []
        await last.let_go()
        await scheduler.stop()

    run(scenario())


def test_those_who_queued_behind_a_client_that_gave_up_waiting_are_served_at_once() -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler(max_loaded=1)
        busy = hold(scheduler, A)
        await until(lambda: busy.lease)
        waiting = hold(scheduler, B)
        await until(lambda: len(stage.prepared) == 2)
        late = hold(scheduler, A)
        await asyncio.sleep(0.05)
        assert late.lease is None
        await waiting.vanish()
        await until(lambda: late.lease)  # while A is busy still
        assert len(stage.runners) == 1
        await busy.let_go()
        await late.let_go()
        assert stage.living == ["a:latest"]
        await scheduler.stop()

    run(scenario())
