"""Runners that are killed while clients of several models are answered: a short form of tests/soak/test_kills.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.daemon import Daemon, eventually, running
from tests.soak.killing import Story, killing
from tests.tiny import write_tiny_gguf

MODELS = ["first", "second", "third"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with three models and four slots in each."""
    folder = tmp_path_factory.mktemp("killed")
    with running(folder, HEARTH_NUM_PARALLEL="4", HEARTH_CONTEXT_LENGTH="2048") as daemon:
        for seed, name in enumerate(MODELS):
            daemon.create(name, write_tiny_gguf(folder / f"{name}.gguf", seed=seed))
        yield daemon


@pytest.fixture(scope="module")
def story(models: Daemon) -> Story:
    """Twelve clients for ten seconds."""
    return asyncio.run(killing(models, MODELS, num_clients=12, seconds=10.0, every_s=1.0))


def test_every_request_ends_with_an_answer_or_a_sentence_about_the_runner(story: Story) -> None:
    assert story.num_kills > 0
    assert story.unforeseen() == []
    assert story.verdicts["answer"] > 0


def test_every_model_answers_again_afterwards(models: Daemon, story: Story) -> None:
    for name in MODELS:
        eventually(lambda name=name: answers(models, name), f"{name} answers")  # type: ignore[misc]
    assert "Traceback" not in models.log


def answers(daemon: Daemon, name: str) -> bool:
    """Whether a request is answered in full."""
    answer = daemon.post("/api/generate", model=name, prompt="x", stream=False, options={"num_predict": 2})
    return answer.status_code == 200 and answer.json()["eval_count"] == 2
