"""Texts to vectors through a real runner's process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from hearthd.engine.frames import Embed, Generate, Load
from hearthd.errors import BadRequest, RunnerKilled
from hearthd.scheduler.runner import ProcessRunner
from tests.hearthd.scheduler.stage import run
from tests.tiny_encoder import HIDDEN_SIZE, write_tiny_encoder

LONG = Embed(0, ["x" * 30] * 60_000)  # seconds


@asynccontextmanager
async def running(directory: Path, hang_timeout_s: float = 60.0) -> AsyncIterator[ProcessRunner]:
    write_tiny_encoder(directory)
    runner = await ProcessRunner.start(Load(str(directory), 64), hang_timeout_s=hang_timeout_s)
    try:
        yield runner
    finally:
        await runner.close()


def test_requests_at_once_get_their_own_vectors(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as runner:
            texts = [[f"text {n}"] * (n + 1) for n in range(8)]
            answers = await asyncio.gather(*(runner.embed(Embed(0, [*each])) for each in texts))
            assert runner.num_answered == 8
        for each, answer in zip(texts, answers, strict=True):
            assert np.frombuffer(answer.vectors, "<f4").reshape(-1, answer.size).shape == (len(each), HIDDEN_SIZE)

    run(scenario())


def test_a_batch_longer_than_the_hang_timeout_is_no_hang(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, hang_timeout_s=0.2) as runner:
            began = time.monotonic()
            await runner.embed(LONG)
            assert time.monotonic() - began > 0.4, "the batch was too short to tell"
            assert runner.alive

    run(scenario())


def test_a_cancelled_batch_frees_the_runner(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as runner:
            reading = asyncio.ensure_future(runner.embed(LONG))
            await asyncio.sleep(0.3)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
            assert (await runner.embed(Embed(0, ["a"]))).size == HIDDEN_SIZE
            assert runner.num_answered == 1

    run(scenario())


def test_a_killed_runner_fails_its_batches_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as runner:
            batches = [asyncio.ensure_future(runner.embed(LONG)) for _ in range(2)]
            await asyncio.sleep(0.2)
            os.kill(runner.pid, signal.SIGKILL)
            for error in await asyncio.gather(*batches, return_exceptions=True):
                assert isinstance(error, RunnerKilled)

    run(scenario())


def test_what_an_encoder_refuses_is_a_bad_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as runner:
            with pytest.raises(BadRequest, match="the input length exceeds the context length"):
                await runner.embed(Embed(0, ["x" * 100], truncate=False))
            with pytest.raises(BadRequest, match="makes embeddings, not text"):
                await anext(runner.generate(Generate(0, "a")))

    run(scenario())
