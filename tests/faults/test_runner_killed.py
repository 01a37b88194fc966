from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.engine.frames import Done, Generate, Piece, SamplingParams
from hearthd.errors import RunnerDied
from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.runner import ProcessRunner
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import StoredModel
from hearthd.store.variant import VariantInfo, read_variant
from tests.hearthd.scheduler.stage import run, stored, until

MODEL = stored("tiny")
LONG = Generate(0, "hello", sampling=SamplingParams(temperature=0.0, repeat_penalty=100.0, repeat_last_n=16))


def scheduler_of(variant: Path) -> Scheduler:
    async def prepare(model: StoredModel) -> tuple[Path, VariantInfo]:
        info = read_variant(variant)
        assert info is not None
        return variant, info

    return Scheduler(prepare, num_ctx=65536)


def pid_of(runner: object) -> int:
    assert isinstance(runner, ProcessRunner)
    return runner.pid


def test_a_runner_killed_mid_token_fails_its_request_and_the_next_one_loads_again(tiny_variant: Path) -> None:
    async def scenario() -> None:
        scheduler = scheduler_of(tiny_variant)
        async with scheduler.lease(MODEL, LoadOptions(), None) as lease:
            killed = pid_of(lease.runner)
            async with aclosing(lease.runner.generate(LONG)) as pieces:
                assert isinstance(await anext(pieces), Piece)
                os.kill(killed, signal.SIGKILL)
                with pytest.raises(RunnerDied, match="killed by SIGKILL"):
                    async for _ in pieces:
                        pass
        async with scheduler.lease(MODEL, LoadOptions(), None) as lease:
            assert pid_of(lease.runner) != killed
            frames = [frame async for frame in lease.runner.generate(Generate(0, "hello", num_predict=1))]
            assert isinstance(frames[-1], Done)
        await scheduler.stop()

    run(scenario())


def test_a_runner_killed_while_idle_is_noticed_and_loaded_again(tiny_variant: Path) -> None:
    async def scenario() -> None:
        scheduler = scheduler_of(tiny_variant)
        async with scheduler.lease(MODEL, LoadOptions(), None) as lease:
            killed = pid_of(lease.runner)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: not scheduler.loaded())
        async with scheduler.lease(MODEL, LoadOptions(), None) as lease:
            assert pid_of(lease.runner) != killed
        await scheduler.stop()
        assert scheduler.loaded() == []

    run(scenario())


def test_unloading_ends_the_process(tiny_variant: Path) -> None:
    async def scenario() -> None:
        scheduler = scheduler_of(tiny_variant)
        async with scheduler.lease(MODEL, LoadOptions(), 0) as lease:
            pid = pid_of(lease.runner)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        await scheduler.stop()

    run(scenario())
