"""`make bench-pull`: pulling from a registry on this machine, beside curl, and beside a chat.

    python -m bench.pull [ROUNDS]

Throughput: one blob of random bytes, by `curl` to a file and by /api/pull (digest checked, flushed to disk),
in turns. Chat: decode speed of another model with one runner thread, alone and while a pull goes on, in turns.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.engines import MIB, Daemon
from bench.workload import PROSE, checkpoint
from tests.registries.docker import DockerRegistry, docker_registry

ROUNDS = 7
BLOB_BYTES = 2 << 30  # as a model of 3 B weights
CHAT_TOKENS = 256
GIGABIT = "125MB"  # bytes a second of a board's usual network port

Figures = dict[str, list[float]]


def main(rounds: int) -> None:
    """Measures and prints."""
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder, docker_registry(Path(folder) / "r") as registry:
        model, digest = publish(registry)
        throughput(registry, model, digest, Path(folder), rounds, figures)
        for name, rate in (("loopback", "0"), ("1 Gbit/s", GIGABIT)):
            chat(model, Path(folder), rounds, name, rate, figures)
    show(figures, rounds)


def publish(registry: DockerRegistry) -> tuple[str, str]:
    """A model whose one layer is BLOB_BYTES of noise; its name and the layer's digest."""
    data = os.urandom(BLOB_BYTES)
    layer = registry.put_blob("library/noise", data)
    config = registry.put_blob("library/noise", b"{}")
    manifest = (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        f'"config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{config}","size":2}},'
        f'"layers":[{{"mediaType":"application/octet-stream","digest":"{layer}","size":{len(data)}}}]}}'
    )
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    put = registry.http.put("/v2/library/noise/manifests/latest", content=manifest, headers={"Content-Type": kind})
    if put.status_code != 201 or layer != "sha256:" + hashlib.sha256(data).hexdigest():
        raise SystemExit(f"bench: the registry refused the model: {put.text}")
    return f"http://{registry.host}/library/noise:latest", layer


def throughput(registry: DockerRegistry, model: str, digest: str, folder: Path, rounds: int, figures: Figures) -> None:
    """curl and pull in turns."""
    daemon = Daemon(folder / "models")
    url = f"http://{registry.host}/v2/library/noise/blobs/{digest}"
    try:
        for turn in range(-1, rounds):
            curl_s = timed_curl(url, folder / "curl.bin")
            before = daemon_rss(daemon)
            with watched(daemon) as seen:
                pull_s = timed_pull(daemon, model)
            daemon.delete(model)
            if turn >= 0:
                figures["curl, MB/s"].append(BLOB_BYTES / curl_s / 1e6)
                figures["pull, MB/s"].append(BLOB_BYTES / pull_s / 1e6)
                figures["pull / curl"].append(curl_s / pull_s)
            figures["daemon RSS growth, MiB"].append(max(seen["daemon"]) - before)
            figures["transfer process RSS peak, MiB"].append(max(seen["child"], default=0))
            figures["transfer process PSS peak, MiB"].append(max(seen["child PSS"], default=0))
    finally:
        daemon.stop()


def timed_curl(url: str, target: Path) -> float:
    """Seconds."""
    os.sync()
    started = time.perf_counter()
    subprocess.run(["curl", "-sSf", "-o", str(target), url], check=True)
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def timed_pull(daemon: Daemon, model: str) -> float:
    """Seconds until it says success."""
    os.sync()
    started = time.perf_counter()
    daemon.pull(model)
    return time.perf_counter() - started


def chat(model: str, folder: Path, rounds: int, name: str, rate: str, figures: Figures) -> None:
    """Decode speed alone and beside a pull, in turns."""
    daemon = Daemon(folder / f"models-{rate}", HEARTH_TRANSFER_RATE=rate, HEARTH_NUM_THREADS="1")
    prompt = PROSE.read_text()[:600]
    try:
        daemon.create(checkpoint())
        daemon.generate([], prompt, CHAT_TOKENS, num_thread=1)
        for _ in range(rounds):
            alone = daemon.generate([], prompt, CHAT_TOKENS, num_thread=1).decode_tokens_s
            with pulling(daemon, model):
                beside = daemon.generate([], prompt, CHAT_TOKENS, num_thread=1).decode_tokens_s
            figures["chat alone, tokens/s"].append(alone)
            figures[f"chat beside a pull at {name}, tokens/s"].append(beside)
            figures[f"chat beside / alone, {name}"].append(beside / alone)
    finally:
        daemon.stop()


@contextlib.contextmanager
def pulling(daemon: Daemon, model: str) -> Iterator[None]:
    """One pull after the other, for as long as the block runs."""
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            daemon.pull(model)
            daemon.delete(model)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(1.0)  # the transfer process is under way
    try:
        yield
    finally:
        ending.set()
        thread.join()


def daemon_rss(daemon: Daemon) -> float:
    """Of the daemon's own process, MiB."""
    return float(psutil.Process(daemon.pid).memory_info().rss / MIB)


@contextlib.contextmanager
def watched(daemon: Daemon) -> Iterator[dict[str, list[float]]]:
    """Memory of the daemon and of its transfer process, sampled while the block runs."""
    seen: dict[str, list[float]] = defaultdict(list)
    ending = threading.Event()

    def sample() -> None:
        while not ending.wait(0.05):
            with contextlib.suppress(psutil.NoSuchProcess):
                seen["daemon"].append(daemon_rss(daemon))
                children = psutil.Process(daemon.pid).children()
                seen["child"].append(sum(child.memory_info().rss for child in children) / MIB)
                seen["child PSS"].append(sum(child.memory_full_info().pss for child in children) / MIB)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        ending.set()
        thread.join()


def show(figures: Figures, rounds: int) -> None:
    """The table: medians, and how far they scatter."""
    table = Table(title=f"a blob of {BLOB_BYTES // MIB} MiB, medians of {rounds} rounds, in turns")
    for column in ("", "median", "least", "most"):
        table.add_column(column, justify="left" if not column else "right")
    for row, values in figures.items():
        table.add_row(row, *(f"{value:.4g}" for value in (statistics.median(values), min(values), max(values))))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
