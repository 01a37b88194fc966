"""A real daemon process on a free port, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 60.0  # for what takes a moment on a loaded machine


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(0.02)
    return value


class Daemon:
    """A running `python -m hearthd`. `wrap` is what its command starts with, as tests/box.py makes it."""

    def __init__(self, directory: Path, *arguments: str, wrap: Sequence[str] = (), **settings: str) -> None:
        self._settle(free_port())
        self.log_path = directory / "daemon.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HEARTH_", "OLLAMA_"))}
        environment |= {"HEARTH_HOST": f"127.0.0.1:{self.port}", "HEARTH_MODELS": str(directory / "models")} | settings
        with self.log_path.open("ab") as log:
            command = [*wrap, sys.executable, "-m", "hearthd", *arguments]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _settle(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def move_to(self, port: int) -> None:
        """From now on ask it there."""
        self.http.close()
        self._settle(port)

    @property
    def log(self) -> str:
        """All that the daemon said so far."""
        return self.log_path.read_text()

    def wait_until_ready(self) -> None:
        """Returns when it answers."""
        eventually(self.answers, f"the daemon answers; its log: {self.log}")

    def answers(self) -> bool:
        """Whether it serves."""
        assert self.process.poll() is None, self.log
        try:
            return self.http.get("/").status_code == 200
        except httpx.TransportError:
            return False

    def post(self, path: str, /, **fields: Any) -> httpx.Response:
        """The answer to a JSON request."""
        return self.http.post(path, json=fields)

    def lines(self, path: str, /, **fields: Any) -> list[dict[str, Any]]:
        """The objects of a streamed answer."""
        with self.http.stream("POST", path, json=fields) as response:
            return [json.loads(line) for line in response.read().decode().split("\n")[:-1]]

    def create(self, name: str, gguf: Path, **fields: Any) -> list[dict[str, Any]]:
        """Make a model from a GGUF file of this machine."""
        lines = self.lines("/api/create", model=name, modelfile=f"FROM {gguf}", **fields)
        assert lines[-1] == {"status": "success"}, lines
        return lines

    def delete(self, name: str) -> None:
        """Unload the model and remove it."""
        assert self.post("/api/generate", model=name, keep_alive=0).status_code == 200
        assert self.http.request("DELETE", "/api/delete", json={"model": name}).status_code == 200

    def loaded(self) -> list[dict[str, Any]]:
        """What /api/ps lists."""
        models: list[dict[str, Any]] = self.http.get("/api/ps").json()["models"]
        return models

    def runner_pids(self) -> list[int]:
        """The processes of its loaded models."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"hearthd.engine\0" in _command_line(pid)]

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the daemon, not its children."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it, politely if it can."""
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _command_line(pid: str) -> bytes:
    """Of a process, its words ended by zero bytes; b"" where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def running(directory: Path, *arguments: str, wrap: Sequence[str] = (), **settings: str) -> Iterator[Daemon]:
    """A daemon that answers; it is gone after the block."""
    daemon = Daemon(directory, *arguments, wrap=wrap, **settings)
    try:
        daemon.wait_until_ready()
        yield daemon
    finally:
        daemon.close()
