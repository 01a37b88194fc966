"""The engines as the bench sees them: two in child processes, one behind the daemon's HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.workload import NUM_CTX, NUM_THREADS, Measured

MODEL = "bench:latest"
START_S = 60
MIB = 1 << 20


class Engine(Protocol):
    """One column of the table."""

    name: str

    def load(self) -> float:
        """Loads the model; seconds."""

    def generate(self, ids: list[int], text: str, num_predict: int) -> Measured: ...

    def unload(self) -> None: ...

    def rss(self) -> float:
        """Resident memory of all its processes, MiB."""

    def refresh(self) -> None:
        """A fresh process for what held the model, so that earlier loads left no trace in it."""

    def stop(self) -> None: ...


def compiled() -> dict[str, str]:
    """The environment, with bytecode cached: compiling at every start would cost time and memory."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def tree_rss(pid: int) -> float:
    """Resident memory of a process and its descendants, MiB."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_info().rss for process in processes) / MIB


def forget(paths: list[Path]) -> None:
    """Drops files from the page cache, so that the next load is cold."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


class Worker:
    """An engine of bench.worker."""

    def __init__(self, name: str, kind: str, source: Path) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "bench.worker", kind, str(source)]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=compiled(),
        )
        self._answer()  # ready

    def load(self) -> float:
        return float(self._ask("load")["seconds"])

    def generate(self, ids: list[int], text: str, num_predict: int) -> Measured:
        return Measured(**self._ask("generate", ids, num_predict)["result"])

    def unload(self) -> None:
        self._ask("unload")

    def rss(self) -> float:
        return tree_rss(self._process.pid)

    def refresh(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, command: str, *arguments: object) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {self.name} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Daemon:
    """`hearth serve` on a free loopback port, asked over plain sockets."""

    name = "hearth, HTTP"

    def __init__(self, models: Path, **settings: str) -> None:
        self._port = free_port()
        environment = compiled() | {
            "HEARTH_HOST": f"127.0.0.1:{self._port}",
            "HEARTH_MODELS": str(models),
            "HEARTH_CONTEXT_LENGTH": str(NUM_CTX),
        }
        environment |= settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hearthd"], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), self._connect():
                break
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit("bench: the daemon did not start")
            time.sleep(0.05)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return self._process.pid

    def pull(self, model: str) -> None:
        """Fetches a model over plain HTTP."""
        self._last(self._post("/api/pull", {"model": model, "insecure": True}))

    def delete(self, model: str) -> None:
        """Removes a model."""
        for _, answer in self._post("/api/delete", {"model": model}, "DELETE"):
            raise SystemExit(f"bench: {answer}")

    def create(self, source: Path) -> float:
        """Converts `source`; seconds."""
        started = time.perf_counter()
        lines = [line for _, line in self._post("/api/create", {"model": MODEL, "modelfile": f"FROM {source}"})]
        if lines[-1].get("status") != "success":
            raise SystemExit(f"bench: create failed: {lines[-1]}")
        return time.perf_counter() - started

    def load(self) -> float:
        started = time.perf_counter()
        self._last(self._post("/api/generate", self._request("", 0)))
        return time.perf_counter() - started

    def generate(self, ids: list[int], text: str, num_predict: int, num_thread: int = NUM_THREADS) -> Measured:
        started = time.perf_counter()
        lines = list(self._post("/api/generate", self._request(text, num_predict, num_thread)))
        first, (ended, done) = lines[0][0], lines[-1]
        if not done.get("done"):
            raise SystemExit(f"bench: the daemon's stream ended with {done}")
        return Measured(
            prompt_tokens=done["prompt_eval_count"],
            first_token_s=first - started,
            prefill_tokens_s=done["prompt_eval_count"] / (done["prompt_eval_duration"] / 1e9),
            decode_tokens_s=(done["eval_count"] - 1) / (ended - first),
        )

    def unload(self) -> None:
        self._last(self._post("/api/generate", {"model": MODEL, "keep_alive": 0}))
        deadline = time.monotonic() + START_S
        while psutil.Process(self._process.pid).children() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)

    def rss(self) -> float:
        return tree_rss(self._process.pid)

    def refresh(self) -> None:
        """Nothing to do: every load has a process of its own."""

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _request(self, text: str, num_predict: int, num_thread: int = NUM_THREADS) -> dict[str, Any]:
        options = {"temperature": 0, "num_predict": num_predict, "num_thread": num_thread, "num_ctx": NUM_CTX}
        return {"model": MODEL, "prompt": text, "raw": bool(text), "options": options, "keep_alive": -1}

    def _last(self, lines: Iterator[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
        *_, (_, last) = lines
        if "error" in last:
            raise SystemExit(f"bench: {last['error']}")
        return last

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=120)

    def _post(self, path: str, body: dict[str, Any], method: str = "POST") -> Iterator[tuple[float, dict[str, Any]]]:
        """The answer's JSON lines, each with the moment it arrived."""
        content = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        with self._connect() as connection:
            connection.sendall(head.encode() + content)
            raw: list[tuple[float, bytes]] = []
            while received := connection.recv(1 << 16):
                raw.append((time.perf_counter(), received))
        yield from _json_lines(raw)


def _json_lines(raw: list[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Objects of a chunked or plain body, parsed only after the last byte so that the client costs no cycles."""
    rest = b""
    for moment, received in raw:
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                yield moment, json.loads(line)
    if rest.startswith(b"{"):
        yield raw[-1][0], json.loads(rest)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
