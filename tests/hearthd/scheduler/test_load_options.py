"""Load-time options, from a lease to real runner processes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from hearthd.engine.frames import Generate, Piece, SamplingParams
from hearthd.errors import BadRequest
from hearthd.scheduler.lease import Lease, LoadOptions
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import StoredModel
from hearthd.store.variant import VariantInfo, read_variant
from tests.hearthd.scheduler.stage import run, stored

MODEL = stored("tiny")
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=100.0, repeat_last_n=16)


def scheduler_of(directory: Path) -> Scheduler:
    info = read_variant(directory)
    assert info is not None

    async def prepare(model: StoredModel) -> tuple[Path, VariantInfo]:
        return directory, info

    return Scheduler(prepare, num_ctx=256)


async def text_of(lease: Lease, prompt: str = "hello") -> str:
    request = Generate(0, prompt, sampling=GREEDY, num_predict=12)
    return "".join([frame.text async for frame in lease.runner.generate(request) if isinstance(frame, Piece)])


def test_a_changed_option_starts_another_runner_that_says_the_same(tiny_variant: Path) -> None:
    async def scenario() -> None:
        scheduler = scheduler_of(tiny_variant)
        asked = (
            LoadOptions(),
            LoadOptions(),
            LoadOptions(num_gpu=0),
            LoadOptions(num_thread=1),
            LoadOptions(num_thread=1, use_mmap=False),
            LoadOptions(num_thread=1, use_mmap=False, num_ctx=128),
        )
        runners, texts = [], []
        for options in asked:
            async with scheduler.lease(MODEL, options, None) as lease:
                runners.append(lease.runner)
                texts.append(await text_of(lease))
        await scheduler.stop()
        same = [left is right for left, right in pairwise(runners)]
        assert same == [True, True, False, False, False]
        assert set(texts) == {texts[0]} != {""}
        assert runners[3].loaded.device == "CPU, 1 threads"
        assert runners[5].loaded.num_ctx == 128

    run(scenario())


def test_vocab_only_counts_tokens_and_refuses_to_answer_until_the_model_is_loaded_whole(tiny_variant: Path) -> None:
    async def scenario() -> None:
        scheduler = scheduler_of(tiny_variant)
        async with scheduler.lease(MODEL, LoadOptions(vocab_only=True), None) as lease:
            assert len(await lease.runner.tokenize("<|im_start|>the")) == 2
            with pytest.raises(BadRequest, match="loaded with vocab_only"):
                await text_of(lease)
            assert len(await lease.runner.tokenize("the")) == 1
        async with scheduler.lease(MODEL, LoadOptions(), None) as lease:
            assert await text_of(lease) != ""
        await scheduler.stop()

    run(scenario())


def test_a_lock_that_is_refused_or_granted_leaves_the_text_as_it_is(tiny_variant: Path) -> None:
    async def scenario() -> None:
        scheduler = scheduler_of(tiny_variant)
        texts = []
        for options in (LoadOptions(), LoadOptions(use_mlock=True)):
            async with scheduler.lease(MODEL, options, None) as lease:
                texts.append(await text_of(lease))
        await scheduler.stop()
        assert texts[0] == texts[1] != ""

    run(scenario())
