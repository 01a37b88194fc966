"""`make bench-loading`: what a load costs, and what of the model lies in which kind of memory.

    python -m bench.loading [NUM_CTX ...]

Runners without a daemon, started in turns on the variant as it is converted and on its packed form, and llama.cpp's
server beside them. Load: from the start of the process to its readiness, with the files in the page cache and without;
medians. Memory: of fresh processes, RSS and which part of it is anonymous; the rest are pages of files. Where swap is
absent only those can leave.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.engines import compiled, forget
from bench.prompts import Prompts
from bench.servers import LlamaCpp, store_with_model
from bench.workload import NUM_PREDICT, NUM_THREADS, checkpoint
from hearthd.engine import packing
from hearthd.engine.frames import (
    PREFIX_BYTES,
    Done,
    Failed,
    Frame,
    FromRunner,
    Generate,
    Load,
    Loaded,
    SamplingParams,
    from_runner_decoder,
    pack,
)
from hearthd.scheduler.process import COMMAND, ENVIRONMENT

WINDOWS = (2048, 8192)
PROMPTS = (512, 1800)  # tokens
ROUNDS = 7
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, MiB."""

    rss: float
    anonymous: float

    def __str__(self) -> str:
        return f"{self.rss:.0f} / {self.anonymous:.0f}"


def memory_of(pid: int) -> Memory:
    """Its resident memory, from /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return Memory(kib["VmRSS"] / 1024, kib["RssAnon"] / 1024)


def peak_of(pid: int) -> float:
    """The most that a process ever had resident, MiB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Runner:
    """A runner's process, spoken to in frames."""

    def __init__(self, variant_dir: Path, num_ctx: int) -> None:
        self._socket, theirs = socket.socketpair()
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*COMMAND, "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.DEVNULL,
            env=compiled() | ENVIRONMENT,
        )
        theirs.close()
        self._send(Load(str(variant_dir), num_ctx, NUM_THREADS))
        loaded = self._receive()
        if not isinstance(loaded, Loaded):
            raise SystemExit(f"bench: {loaded}")
        self.load_s = time.perf_counter() - started

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def generate(self, prompt: str) -> Done:
        """Greedy, NUM_PREDICT tokens."""
        self._send(Generate(1, prompt, sampling=SamplingParams(temperature=0.0), num_predict=NUM_PREDICT))
        while True:
            frame = self._receive()
            if isinstance(frame, Failed):
                raise SystemExit(f"bench: {frame.message}")
            if isinstance(frame, Done):
                return frame

    def stop(self) -> None:
        """Ends the process."""
        self._socket.close()
        self._process.wait(30)

    def _send(self, frame: Frame) -> None:
        self._socket.sendall(pack(frame))

    def _receive(self) -> FromRunner:
        length = int.from_bytes(self._exactly(PREFIX_BYTES), "little")
        return from_runner_decoder.decode(self._exactly(length))

    def _exactly(self, num_bytes: int) -> bytes:
        content = b""
        while len(content) < num_bytes:
            received = self._socket.recv(num_bytes - len(content))
            if not received:
                raise SystemExit("bench: the runner ended")
            content += received
        return content


@contextmanager
def runner(variant_dir: Path, num_ctx: int) -> Iterator[Runner]:
    """A loaded one, ended afterwards."""
    running = Runner(variant_dir, num_ctx)
    try:
        yield running
    finally:
        running.stop()


def load_times(variants: dict[str, Path], source: Path, rounds: int) -> dict[str, list[str]]:
    """Name -> seconds to load, warm and cold, medians of loads in turns."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in (*variants, "llama.cpp")}
    for cold in (False, True):
        for _ in range(rounds):
            for name, directory in variants.items():
                if cold:
                    forget([path for path in directory.rglob("*") if path.is_file()])
                with runner(directory, WINDOWS[0]) as running:
                    times[name][cold].append(running.load_s)
            if cold:
                forget([source])
            started = time.perf_counter()
            LlamaCpp(source).stop()
            times["llama.cpp"][cold].append(time.perf_counter() - started)
    return {name: [f"{statistics.median(side):.2f}" for side in sides] for name, sides in times.items()}


def lives(variant_dir: Path, num_ctx: int, prompts: Prompts) -> list[str]:
    """Memory of a fresh runner after its load and after each prompt, and its peak."""
    with runner(variant_dir, num_ctx) as running:
        found = [str(memory_of(running.pid))]
        for num_tokens in PROMPTS:
            running.generate(prompts.next(num_tokens))
            found.append(str(memory_of(running.pid)))
        return [*found, f"{peak_of(running.pid):.0f}"]


def peer_lives(source: Path, num_ctx: int, prompts: Prompts) -> list[str]:
    """As `lives`, of llama.cpp's server."""
    server = LlamaCpp(source, 1, num_ctx)
    pid = max(child.pid for child in psutil.Process().children())
    try:
        found = [str(memory_of(pid))]
        for num_tokens in PROMPTS:
            asyncio.run(server.stream(prompts.next(num_tokens), NUM_PREDICT).run())
            found.append(str(memory_of(pid)))
        return [*found, f"{peak_of(pid):.0f}"]
    finally:
        server.stop()


def speeds(variants: dict[str, Path], prompts: Prompts, rounds: int) -> dict[str, list[str]]:
    """Name -> tokens a second of a prompt and of its answer; medians of runs in turns after one that is not counted."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in variants}
    runners = {name: Runner(directory, WINDOWS[0]) for name, directory in variants.items()}
    try:
        for turn in range(rounds + 1):
            for name, running in runners.items():
                done = running.generate(prompts.next(PROMPTS[0]))
                if turn:
                    found[name][0].append((done.prompt_count - done.cached_count) / (done.prompt_ns / 1e9))
                    found[name][1].append(done.eval_count / (done.eval_ns / 1e9))
    finally:
        for running in runners.values():
            running.stop()
    return {name: [f"{statistics.median(side):.4g}" for side in sides] for name, sides in found.items()}


def disk_mib(directory: Path) -> str:
    """What lies below a directory, MiB."""
    return f"{sum(path.stat().st_size for path in directory.rglob('*') if path.is_file()) / MIB:.0f}"


def show(title: str, columns: list[str], rows: dict[str, list[str]]) -> None:
    """One table."""
    table = Table(title=title)
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        table.add_row(name, *row, *["-"] * (len(columns) - len(row)))
    Console(width=130).print(table)


def both_forms(folder: Path, source: Path) -> dict[str, Path]:
    """Name -> a variant of `source` as it is converted, and one with packed weights."""
    found = {}
    for name in ("plain", "packed"):
        found[name] = store_with_model(folder / name, source)
    if packing.main([str(found["packed"])]):
        raise SystemExit("bench: the weights could not be packed")
    return found


def main(windows: tuple[int, ...], rounds: int = ROUNDS) -> None:
    """Measures and prints."""
    source = checkpoint()
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as name:
        variants = both_forms(Path(name), source)
        prompts = Prompts(variants["plain"])
        times = load_times(variants, source, rounds)
        pace = speeds(variants, prompts, rounds)
        sizes = {name: [disk_mib(directory)] for name, directory in variants.items()}
        rows = {name: [*row, *pace.get(name, ["-", "-"]), *sizes.get(name, ["-"])] for name, row in times.items()}
        title = f"SmolLM2-135M Q4_1, {NUM_THREADS} threads: medians of {rounds} rounds"
        show(title, ["load warm, s", "load cold, s", "prefill, tokens/s", "decode, tokens/s", "on disk, MiB"], rows)
        moments = ["loaded", *(f"after {num_tokens} tokens" for num_tokens in PROMPTS), "peak"]
        for num_ctx in windows:
            kept = {name: lives(directory, num_ctx, prompts) for name, directory in variants.items()}
            kept["llama.cpp"] = peer_lives(source, num_ctx, prompts)
            show(f"RSS / anonymous, MiB, one process, num_ctx {num_ctx}", moments, kept)


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main(tuple(int(word) for word in sys.argv[1:]) or WINDOWS)
