"""SIGTERM and SIGINT, with and without work at hand."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon, eventually, running

ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


class Stream(threading.Thread):
    """A streamed answer, read beside the test."""

    def __init__(self, daemon: Daemon, options: dict[str, Any]) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self._daemon = daemon
        self._options = options
        self.start()

    def run(self) -> None:
        asked = {"model": "tiny", "prompt": "hello", "options": self._options}
        with httpx.stream("POST", f"{self._daemon.url}/api/generate", json=asked, timeout=60) as answer:
            for line in answer.iter_lines():
                self.lines.append(json.loads(line))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_stops_with_status_zero(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as daemon:
        daemon.send_signal(number)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def test_an_idle_model_does_not_keep_the_daemon(tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        daemon.post("/api/generate", model="tiny", keep_alive=-1)
        (pid,) = daemon.runner_pids()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert not Path(f"/proc/{pid}").exists()


def test_a_stream_that_ends_in_time_is_complete(tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path, HEARTH_DRAIN_TIMEOUT="60s") as daemon:
        daemon.create("tiny", tiny_gguf)
        stream = Stream(daemon, ENDLESS | {"num_predict": 3000})
        eventually(lambda: len(stream.lines) > 2, "the stream has begun")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        stream.join()
        assert (stream.lines[-1]["done"], stream.lines[-1]["eval_count"]) == (True, 3000)


def test_a_stream_that_does_not_end_in_time_ends_with_an_error(tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path, HEARTH_DRAIN_TIMEOUT="300ms") as daemon:
        daemon.create("tiny", tiny_gguf)
        stream = Stream(daemon, ENDLESS)
        eventually(lambda: len(stream.lines) > 2, "the stream has begun")
        (pid,) = daemon.runner_pids()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        stream.join()
        assert list(stream.lines[-1]) == ["error"]
        assert not Path(f"/proc/{pid}").exists()
        assert "Traceback" not in daemon.log


def test_while_it_drains_nobody_can_connect(tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path, HEARTH_DRAIN_TIMEOUT="60s") as daemon:
        daemon.create("tiny", tiny_gguf)
        stream = Stream(daemon, ENDLESS)
        eventually(lambda: len(stream.lines) > 2, "the stream has begun")
        daemon.send_signal(signal.SIGTERM)
        eventually(lambda: not can_connect(daemon.port), "the port is closed")
        assert daemon.process.poll() is None
        daemon.send_signal(signal.SIGTERM)  # the second one: now
        assert daemon.wait() == 0
        stream.join()
        assert list(stream.lines[-1]) == ["error"]


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def test_a_client_that_does_not_read_does_not_keep_the_daemon(tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path, HEARTH_DRAIN_TIMEOUT="300ms") as daemon:
        daemon.create("tiny", tiny_gguf)
        body = json.dumps({"model": "tiny", "prompt": "hello", "options": ENDLESS}).encode()
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", daemon.port), 30) as connection:
            connection.sendall(head.encode() + body)
            connection.recv(10)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait() == 0
