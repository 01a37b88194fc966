"""A runner that dies while it writes, seen from the other end of HTTP."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, eventually

ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


def test_the_stream_ends_with_an_error_and_the_next_request_loads_again(daemon: Daemon) -> None:
    asked = {"model": "tiny", "prompt": "hello", "options": ENDLESS}
    with daemon.http.stream("POST", "/api/generate", json=asked) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        (pid,) = daemon.runner_pids()
        os.kill(pid, signal.SIGKILL)
        last: dict[str, Any] = json.loads(list(lines)[-1])
    assert list(last) == ["error"]
    assert "ended unexpectedly" in last["error"]
    again = daemon.post("/api/generate", model="tiny", prompt="x", stream=False, options={"num_predict": 2})
    assert again.json()["eval_count"] == 2
    assert pid not in daemon.runner_pids()


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_an_answer_in_one_piece_fails_with_a_status(daemon: Daemon, path: str) -> None:
    daemon.post("/api/generate", model="tiny", options=ENDLESS)
    (pid,) = daemon.runner_pids()
    messages = [{"role": "user", "content": "x"}]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            daemon.post, path, model="tiny", prompt="x", messages=messages, options=ENDLESS, stream=False
        )
        eventually(lambda: in_use(daemon), "the model is in use")
        os.kill(pid, signal.SIGKILL)
        answer = asked.result()
    assert answer.status_code == 500
    assert "ended unexpectedly" in answer.json()["error"]
    assert "Traceback" not in daemon.log


def in_use(daemon: Daemon) -> bool:
    """Whether the loaded model's clock stands still: its expiry moves on from one look to the next."""
    return daemon.loaded() != daemon.loaded()
