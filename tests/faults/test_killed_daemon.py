"""kill -9 of the daemon at random moments of pull, create and push; nothing is lost, nothing half-made is seen.

The default run does a few rounds; `make test-kill` a hundred. HEARTH_KILL_SEED repeats a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hearthd.store.store import open_store
from tests.e2e.daemon import Daemon, eventually
from tests.registries.docker import DockerRegistry, docker_registry
from tests.registries.models import FILLER, publish
from tests.registries.proxy import Proxy, proxy
from tests.tiny import write_tiny_gguf

FILLER_BYTES = 24 << 20
RATE = "32MiB"  # a pull or a push then takes about a second
SLACK_BYTES = 1 << 20  # manifests, headers and what is in the sockets
KEEPER = "keeper:latest"


@dataclass
class World:
    """One store, one registry, a daemon that is killed again and again."""

    directory: Path
    registry: DockerRegistry
    line: Proxy
    gguf: Path
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    serial: int = 0

    @property
    def stock(self) -> str:
        """A model that takes a while to push."""
        return f"{self.line.host}/library/stock:latest"

    def start(self) -> Daemon:
        """A daemon that answers."""
        daemon = Daemon(self.directory, HEARTH_TRANSFER_RATE=RATE)
        daemon.wait_until_ready()
        return daemon


class Work(threading.Thread):
    """A request whose daemon will die; what it said until then."""

    def __init__(self, daemon: Daemon, path: str, **fields: Any) -> None:
        super().__init__(daemon=True)
        self._url = daemon.url + path
        self._fields = fields
        self.lines: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        with suppress(httpx.HTTPError), httpx.stream("POST", self._url, json=self._fields, timeout=60) as response:
            for line in response.iter_lines():
                self.lines.append(json.loads(line))

    @property
    def stage(self) -> str:
        """What was going on, in a word or two."""
        status = self.lines[-1].get("status", "refused") if self.lines else "nothing yet"
        return " ".join(status.split()[:2]) if not status.startswith(("pulling ", "pushing ")) else status.split()[0]


def kill(daemon: Daemon) -> None:
    """SIGKILL, and see that its children go too."""
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    daemon.close()
    eventually(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "children end")


def killed_while(world: World, path: str, longest_s: float, **fields: Any) -> str:
    """Start the work, kill the daemon at a random moment of it; the stage that it was in."""
    daemon = world.start()
    work = Work(daemon, path, **fields)
    time.sleep(world.random.uniform(0.0, longest_s))
    kill(daemon)
    work.join(60)
    return work.stage


# --- the three kinds of work ----------------------------------------------------------------------


def pull_round(world: World) -> str:
    """Resumes without fetching again what was finished."""
    world.serial += 1
    repository = f"library/pulled{world.serial}"
    others = [(FILLER, world.random.randbytes(FILLER_BYTES))]
    manifest = publish(world.registry, repository, new_gguf(world), others)
    name = f"{world.line.host}/{repository}:latest"
    stage = killed_while(world, "/api/pull", 2.4, model=name, insecure=True)
    finished = sum(finished_bytes(world.directory / "models" / "blobs", part.digest) for part in manifest.parts)
    with check(world) as daemon:
        before = world.line.num_received_bytes
        lines = daemon.lines("/api/pull", model=name, insecure=True)
        assert lines[-1] == {"status": "success"}, lines[-1]
        fetched = world.line.num_received_bytes - before
        assert fetched <= manifest.size_bytes - finished + SLACK_BYTES, (
            f"{stage}: {fetched} fetched, {finished} were here"
        )
        see_that_it_works(daemon, world, name)
        remove(daemon, name)
    return f"pull, {stage}"


def new_gguf(world: World) -> Path:
    """A checkpoint that was never converted."""
    path = world.directory / "new.gguf"
    return write_tiny_gguf(path, seed=world.serial, hidden_size=256, ffn_size=1024, num_layers=8)


def finished_bytes(blobs: Path, digest: str) -> int:
    """Bytes of the blob that need not be fetched again."""
    path = blobs / digest.replace(":", "-")
    if path.exists():
        return path.stat().st_size
    journal = path.with_name(f"{path.name}-partial.journal")
    if not journal.exists():
        return 0
    complete = journal.read_text().split("\n")[1:-1]  # after the line with the total, before one that was cut off
    return sum(int(line.split()[1]) for line in complete)


def create_round(world: World) -> str:
    """The model is there or not, and can be made."""
    world.serial += 1
    name = f"made{world.serial}:latest"
    gguf = new_gguf(world)
    fields = {"model": name, "modelfile": f"FROM {gguf}\nSYSTEM number {world.serial}"}
    stage = killed_while(world, "/api/create", 1.1, **fields)
    with check(world) as daemon:
        assert daemon.lines("/api/create", **fields)[-1] == {"status": "success"}
        see_that_it_works(daemon, world, name)
        remove(daemon, name)
    return f"create, {stage}"


def push_round(world: World) -> str:
    """What arrives in the registry is whole or not there at all."""
    world.serial += 1
    repository = f"library/pushed{world.serial}"
    local = f"{world.line.host}/{repository}:latest"
    daemon = world.start()
    assert daemon.post("/api/copy", source=world.stock, destination=local).status_code == 200
    daemon.close()
    stage = killed_while(world, "/api/push", 1.6, model=local, insecure=True)
    see_that_what_was_pushed_is_whole(world, repository)
    with check(world) as daemon:
        assert daemon.lines("/api/push", model=local, insecure=True)[-1] == {"status": "success"}
        assert see_that_what_was_pushed_is_whole(world, repository)
        remove(daemon, local)
    return f"push, {stage}"


def see_that_what_was_pushed_is_whole(world: World, repository: str) -> bool:
    """Whether the registry has the manifest; if so, it has every blob of it."""
    data = world.registry.manifest(repository, "latest")
    if data is None:
        return False
    manifest = json.loads(data)
    for part in [manifest["config"], *manifest["layers"]]:
        assert len(world.registry.blob(repository, part["digest"]) or b"") == part["size"]
    return True


# --- after each kill ------------------------------------------------------------------------------


class check:
    """A new daemon on the store, of which every listed model is whole and loads."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> Daemon:
        self._daemon = self._world.start()
        models = self._daemon.http.get("/api/tags").json()["models"]
        assert KEEPER in [model["name"] for model in models]
        for model in models:
            see_that_it_works(self._daemon, self._world, model["name"])
        return self._daemon

    def __exit__(self, *_: object) -> None:
        self._daemon.close()


def see_that_it_works(daemon: Daemon, world: World, name: str) -> None:
    """Every blob is what its digest says, and the model answers."""
    store = open_store(world.directory / "models")
    (model,) = (model for model in store.models() if model.name.short == name)
    for part in model.manifest.needed:
        data = store.blobs.path(part.digest).read_bytes()
        assert part.digest == "sha256:" + hashlib.sha256(data).hexdigest(), f"{name}: {part.media_type} is damaged"
    answer = daemon.post("/api/generate", model=name, prompt="x", stream=False, options={"num_predict": 2})
    assert answer.status_code == 200, answer.text
    assert answer.json()["eval_count"] == 2
    assert daemon.post("/api/generate", model=name, keep_alive=0).status_code == 200


def remove(daemon: Daemon, name: str) -> None:
    assert daemon.http.request("DELETE", "/api/delete", json={"model": name}).status_code == 200


# --- the suite ------------------------------------------------------------------------------------

ROUNDS: tuple[Callable[[World], str], ...] = (pull_round, create_round, push_round)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    seed = int(os.environ.get("HEARTH_KILL_SEED", time.time_ns() % 1_000_000))
    gguf = write_tiny_gguf(tmp_path / "keeper.gguf", hidden_size=256, ffn_size=1024, num_layers=4)
    with docker_registry(tmp_path / "registry") as registry, proxy(registry.port) as line:
        world = World(tmp_path, registry, line, gguf, random.Random(seed))
        daemon = world.start()
        daemon.create(KEEPER, gguf)
        publish(registry, "library/stock", gguf, [(FILLER, world.random.randbytes(FILLER_BYTES))])
        assert daemon.lines("/api/pull", model=world.stock, insecure=True)[-1] == {"status": "success"}
        daemon.close()
        print(f"HEARTH_KILL_SEED={seed}")
        yield world


def run(world: World, num_rounds: int) -> None:
    for turn in range(num_rounds):
        world.counts[ROUNDS[turn % len(ROUNDS)](world)] += 1
    leftovers = [path.name for path in (world.directory / "models").rglob("*") if is_unfinished(path)]
    assert leftovers == []


def is_unfinished(path: Path) -> bool:
    return path.name.startswith(".tmp-") or "-partial" in path.name or "-upload-" in path.name


def report(world: World, num_rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{num_rounds} rounds of kill -9; killed in:")
        for stage, count in sorted(world.counts.items()):
            print(f"  {count:3} {stage}")


def test_nothing_is_lost_when_the_daemon_is_killed(world: World) -> None:
    run(world, 6)


@pytest.mark.kill
def test_nothing_is_lost_in_many_kills(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    num_rounds = int(os.environ.get("HEARTH_KILL_ROUNDS", "100"))
    run(world, num_rounds)
    report(world, num_rounds, capsys)
