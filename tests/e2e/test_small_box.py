"""A device with little memory, made of a cgroup: a short form of tests/soak/test_box.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.box import Box, box
from tests.e2e.daemon import Daemon, eventually, running
from tests.soak.crowding import (
    MIB,
    Wanted,
    ask_plainly,
    base_bytes,
    evictions,
    hog_in,
    largest_bytes,
    learn,
    take_turns,
)
from tests.tiny import write_tiny_gguf

MODELS = ["first", "second", "third"]
PROMPTS = ["once upon a time", "the quick brown fox", "a"]
NUM_PREDICT = 12
NUM_REQUESTS = 36
ENDLESS = {"num_predict": 1_000_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


@dataclass(frozen=True, slots=True)
class Device:
    """A store of three models, what they answer, and the memory that one and a half of them need, and all the rest."""

    folder: Path
    wanted: list[Wanted]
    models_bytes: int
    base_bytes: int


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    folder = tmp_path_factory.mktemp("box")
    with running(folder, HEARTH_CONTEXT_LENGTH="2048") as daemon:
        for seed, name in enumerate(MODELS):
            daemon.create(name, write_tiny_gguf(folder / f"{name}.gguf", seed=seed))
        wanted = learn(daemon, MODELS, PROMPTS, NUM_PREDICT)
        return Device(folder, wanted, largest_bytes(daemon) * 3 // 2, base_bytes(daemon))


@pytest.fixture
def small(device: Device) -> Iterator[Box]:
    """A box with room for one model and a half."""
    with box(device.base_bytes + device.models_bytes) as found:
        yield found


@pytest.fixture
def boxed(device: Device, small: Box) -> Iterator[Daemon]:
    """A daemon in the box, with the models."""
    (device.folder / "daemon.log").unlink()
    settings = {"HEARTH_CONTEXT_LENGTH": "2048"} | small.settings(device.models_bytes)
    with running(device.folder, wrap=small.wrap(), **settings) as daemon:
        yield daemon


def need_shared(box: Box) -> None:
    """Skips where each process has a limit of its own."""
    if not box.shared:
        pytest.skip("no cgroup with a memory limit can be made here (it takes root, or a delegated one)")


def test_models_that_do_not_fit_together_take_turns(device: Device, small: Box, boxed: Daemon) -> None:
    wrong = asyncio.run(take_turns(boxed, device.wanted, NUM_REQUESTS, num_clients=2))
    assert wrong == []
    assert small.num_kills() == 0
    assert evictions(boxed.log) > 0
    assert len(boxed.loaded()) == 1


def test_idle_model_leaves_before_the_kernel_kills_and_comes_back(device: Device, small: Box, boxed: Daemon) -> None:
    need_shared(small)
    want = device.wanted[0]
    assert ask_plainly(boxed, want.model, want.prompt, want.num_predict) == want.text
    with hog_in(small) as hog:
        assert hog.grow_until(lambda: not boxed.loaded(), small), boxed.log
        hog.grow_until(lambda: False, small)
        assert "requires more system memory" in ask_plainly(boxed, want.model, want.prompt, want.num_predict)
    assert small.num_kills() == 0
    eventually(lambda: ask_plainly(boxed, want.model, want.prompt, want.num_predict) == want.text, "the model is back")


def test_answer_under_way_goes_on_while_idle_models_leave(device: Device, small: Box, boxed: Daemon) -> None:
    need_shared(small)
    small.limit(small.limit_bytes + 150 * MIB)  # room for all three
    with boxed.http.stream(
        "POST", "/api/generate", json={"model": "first", "prompt": "x", "options": ENDLESS}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        for model in MODELS[1:]:
            ask_plainly(boxed, model, "x", 1)
        assert len(boxed.loaded()) == len(MODELS), boxed.log
        with hog_in(small) as hog:
            assert hog.grow_until(lambda: len(boxed.loaded()) == 1, small), boxed.log
            assert boxed.loaded()[0]["name"] == "first:latest"
            assert all(json.loads(next(lines))["done"] is False for _ in range(20))
    assert small.num_kills() == 0
