"""HEARTH_PREFIX_CACHE over HTTP: a chat goes on after its model was unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, eventually, running

SYSTEM = {"role": "system", "content": "You keep a lighthouse by the sea, and you are brief. " * 12}
OPTIONS = {"num_predict": 12, "num_ctx": 1024, "top_k": 1}


@pytest.fixture(scope="module")
def daemon(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that saves prompts."""
    with running(tmp_path_factory.mktemp("prefixes"), HEARTH_PREFIX_CACHE="256MiB") as daemon:
        daemon.create("tiny", tiny_gguf)
        yield daemon


def chat(daemon: Daemon, *messages: dict[str, str], **fields: Any) -> dict[str, Any]:
    """The answer."""
    body = {"model": "tiny", "stream": False, "options": OPTIONS, "messages": [SYSTEM, *messages]} | fields
    answer = daemon.post("/api/chat", **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def unload(daemon: Daemon) -> None:
    """Returns when the model has left."""
    daemon.post("/api/chat", model="tiny", keep_alive=0)
    eventually(lambda: not daemon.runner_pids(), "the runner leaves")


def files(daemon: Daemon) -> list[Path]:
    """What is saved."""
    return list((daemon.log_path.parent / "models/prefixes").rglob("*.kv"))


QUESTION = {"role": "user", "content": "What did the keeper do?"}


def test_a_chat_that_goes_on_after_an_unload_reads_what_was_saved_and_says_the_same(daemon: Daemon) -> None:
    first = chat(daemon, QUESTION)
    turns = (QUESTION, first["message"], {"role": "user", "content": "And then?"})
    loaded = chat(daemon, *turns)
    unload(daemon)
    (file,) = files(daemon)
    used_ns = file.stat().st_mtime_ns
    again = chat(daemon, *turns)
    assert file.stat().st_mtime_ns > used_ns  # a file that is read is marked as used
    assert again["message"] == loaded["message"]
    assert again["prompt_eval_count"] == loaded["prompt_eval_count"]
    unload(daemon)


def test_a_prompt_that_cannot_be_rendered_is_refused_alike_before_and_after_the_load(daemon: Daemon) -> None:
    unload(daemon)
    body = {"model": "tiny", "prompt": "hi", "template": "{{ .Prompt", "stream": False}
    unloaded, loaded = daemon.post("/api/generate", **body), daemon.post("/api/generate", **body)
    assert unloaded.json()["error"] == loaded.json()["error"]
    assert unloaded.status_code == loaded.status_code >= 400
    assert daemon.post("/api/generate", model="tiny", prompt="hi", stream=False, options=OPTIONS).status_code == 200
