"""Clients that come, stay, leave and ask for anything, while runners die and memory is short: nothing gets stuck."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from hearthd.engine.frames import Load
from hearthd.errors import LoadFailed, Overloaded, RunnerDied, RunnerKilled
from hearthd.scheduler import crashes as crashes_module
from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.scheduler import Scheduler
from tests.hearthd.scheduler.stage import PATIENCE_S, Stage, ToyRunner, run, stored, until

MODELS = [stored(name) for name in "abcd"]
OPTIONS = [LoadOptions(), LoadOptions(), LoadOptions(num_ctx=512), LoadOptions(num_batch=64)]
MAX_LOADED = 2
NUM_REQUESTS = 150


class RoughStage(Stage):
    """Loads take a moment, and now and then they fail."""

    chance: random.Random

    async def _spawn(self, load: Load) -> ToyRunner:
        assert len(self.living) < MAX_LOADED
        await asyncio.sleep(self.chance.random() * 0.01)
        if self.chance.random() < 0.1:
            raise self.chance.choice([LoadFailed("no"), RunnerDied("crashed"), RunnerKilled("killed")])
        return await super()._spawn(load)


async def client(scheduler: Scheduler, chance: random.Random) -> str:
    """One request of any kind; how it ended."""
    await asyncio.sleep(chance.random() * 0.4)
    model, options = chance.choice(MODELS), chance.choice(OPTIONS)
    keep_alive_ns, patience_s = chance.choice([None, None, 0, 5_000_000, -1]), chance.choice([0.01, PATIENCE_S])
    try:
        async with asyncio.timeout(patience_s):
            async with scheduler.lease(model, options, keep_alive_ns) as lease:
                assert lease.runner.loaded.num_ctx == (options.num_ctx or lease.runner.loaded.num_ctx)
                await asyncio.sleep(chance.random() * 0.02)
                return "answered" if lease.runner.alive else "died"
    except TimeoutError:
        return "left" if patience_s < PATIENCE_S else "stuck"
    except (LoadFailed, RunnerDied, Overloaded) as error:
        return type(error).__name__


async def trouble(stage: Stage, scheduler: Scheduler, chance: random.Random) -> None:
    """What happens to the loaded models meanwhile."""
    while True:
        await asyncio.sleep(chance.random() * 0.03)
        match chance.randrange(4):
            case 0 if living := [runner for runner in stage.runners if runner.alive]:
                chance.choice(living).dies(RunnerDied("killed"))
            case 1 if idle := scheduler.idle():
                await scheduler.relieve(idle[0], "relieve")
            case 2:
                scheduler.expire(chance.choice(MODELS))
            case _:
                await scheduler.trim(1)


@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_and_nothing_is_left_behind(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(crashes_module, "FIRST_PAUSE_NS", 2_000_000)
        monkeypatch.setattr(crashes_module, "LONGEST_PAUSE_NS", 10_000_000)
        chance = random.Random(seed)
        stage = RoughStage()
        stage.chance = chance
        scheduler = stage.scheduler(max_loaded=MAX_LOADED, num_parallel=2, max_queue=100)
        troubled = asyncio.ensure_future(trouble(stage, scheduler, chance))
        ends = await asyncio.gather(*(client(scheduler, chance) for _ in range(NUM_REQUESTS)))
        troubled.cancel()
        with suppress(asyncio.CancelledError):
            await troubled
        assert "stuck" not in ends
        assert ends.count("answered") > NUM_REQUESTS // 10, ends
        await until(lambda: len(scheduler.idle()) == len(scheduler.loaded()))
        assert len(stage.living) <= MAX_LOADED
        await scheduler.stop()
        assert stage.living == []

    run(scenario())
