"""More clients than slots: who is answered at the same time, and that nobody's text depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon, running
from tests.soak.asking import Asked, ask

NUM_SLOTS = 4
NUM_CLIENTS = 8
ENDLESS = {"num_predict": 1_000_000, "num_ctx": 4096, "temperature": 50.0, "top_k": 20, "top_p": 1.0}
PIECES = 5


@pytest.fixture(scope="module")
def daemon(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the model `tiny` and four slots."""
    settings = {"HEARTH_NUM_PARALLEL": str(NUM_SLOTS), "HEARTH_CONTEXT_LENGTH": "4096"}
    with running(tmp_path_factory.mktemp("clients"), **settings) as daemon:
        daemon.create("tiny", tiny_gguf)
        yield daemon


def stream(daemon: Daemon, stack: ExitStack, prompt: str) -> Iterator[str]:
    """Lines of an answer that does not end by itself."""
    asked = {"model": "tiny", "prompt": prompt, "raw": True, "options": ENDLESS}
    response: httpx.Response = stack.enter_context(daemon.http.stream("POST", "/api/generate", json=asked))
    return response.iter_lines()


def test_as_many_clients_as_slots_are_answered_at_the_same_time(daemon: Daemon) -> None:
    with ExitStack() as stack:
        streams = [stream(daemon, stack, f"client {i}") for i in range(NUM_SLOTS)]
        for _ in range(
            PIECES
        ):  # none of them ends before it is closed, so each piece comes between those of the others
            assert all('"done":false' in next(lines) for lines in streams)


def test_a_client_beyond_the_slots_is_answered_when_one_of_them_is_free(daemon: Daemon) -> None:
    with ExitStack() as stack, ExitStack() as first:
        lines = stream(daemon, first, "the first")
        others = [stream(daemon, stack, f"client {i}") for i in range(NUM_SLOTS - 1)]
        assert all(next(each) for each in (lines, *others))
        late = asyncio.run(_late(daemon, lines, first))
    assert late.verdict() == "answer"


async def _late(daemon: Daemon, running: Iterator[str], first: ExitStack) -> Asked:
    """Asks while all slots are taken; sees pieces of the stream that runs, ends it, and returns the answer."""
    body = {"model": "tiny", "prompt": "late", "options": {"num_predict": 2}}
    task = asyncio.create_task(ask(daemon.port, "/api/generate", body))
    for _ in range(4 * PIECES):
        await asyncio.to_thread(next, running)
    assert not task.done()
    first.close()
    return await task


def greedy(i: int) -> dict[str, Any]:
    """A request whose answer is the same each time."""
    prompt = f"{i} " + " ".join(f"word{i * j}" for j in range(8 * i))
    options = {"temperature": 0, "num_predict": 40, "repeat_penalty": 1.5, "repeat_last_n": 16}
    return {"model": "tiny", "prompt": prompt, "raw": True, "options": options}


def test_greedy_answers_are_the_same_alone_and_among_others(daemon: Daemon) -> None:
    alone = [daemon.post("/api/generate", **greedy(i), stream=False).json()["response"] for i in range(NUM_CLIENTS)]

    async def together() -> list[Asked]:
        return await asyncio.gather(*(ask(daemon.port, "/api/generate", greedy(i)) for i in range(NUM_CLIENTS)))

    answers = asyncio.run(together())
    assert {answer.verdict() for answer in answers} == {"answer"}
    assert [answer.text() for answer in answers] == alone


def test_clients_that_leave_take_nothing_from_the_others(daemon: Daemon) -> None:
    with ExitStack() as staying:
        kept = stream(daemon, staying, "stays")
        next(kept)
        for i in range(NUM_CLIENTS):
            with ExitStack() as leaving:
                assert next(stream(daemon, leaving, f"leaves {i}"))
            assert '"done":false' in next(kept)
