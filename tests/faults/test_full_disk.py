"""A disk that fills up under the daemon: a clear error, the space is back, older models work.

The store lies on a small tmpfs, so these tests need root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hearthd.store.durable import free_bytes
from tests.e2e.daemon import Daemon, eventually, running
from tests.hearth_export.adapters import random_pair, write_gguf_adapter
from tests.registries.docker import DockerRegistry, docker_registry
from tests.registries.models import FILLER, publish
from tests.tiny import write_tiny_gguf
from tests.tiny_directory import write_tiny_directory

MIB = 1 << 20
DISK_BYTES = 192 * MIB
FILLER_BYTES = 64 * MIB
SLACK_BYTES = 2 * MIB  # metadata, an open file that goes a moment later


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with DISK_BYTES of room."""
    directory, mount = tmp_path / "disk", shutil.which("mount")
    directory.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(directory))
    if mount is None or os.geteuid() or subprocess.run([mount, *options]).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def daemon(disk: Path, tiny_gguf: Path) -> Iterator[Daemon]:
    """A daemon whose store is on the small disk and holds the model `older`; it fetches 24 MiB a second."""
    with running(disk, HEARTH_TRANSFER_RATE="24MiB") as daemon:
        daemon.create("older", tiny_gguf)
        yield daemon
        see_that_it_answers(daemon, "older")


def see_that_it_answers(daemon: Daemon, name: str) -> None:
    answer = daemon.post("/api/generate", model=name, prompt="x", stream=False, options={"num_predict": 2})
    assert (answer.status_code, answer.json().get("eval_count")) == (200, 2), answer.text


@contextmanager
def ballast(disk: Path, left_bytes: int) -> Iterator[None]:
    """Something else takes the room, but for `left_bytes`, while the block runs."""
    path = disk / "ballast"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(disk) - left_bytes)
    try:
        yield
    finally:
        path.unlink()


class Asking(threading.Thread):
    """A streamed request, while something else happens."""

    def __init__(self, daemon: Daemon, path: str, **fields: Any) -> None:
        super().__init__(daemon=True)
        self.lines: list[dict[str, Any]] = []
        self._work: Callable[[], list[dict[str, Any]]] = lambda: daemon.lines(path, **fields)
        self.start()

    def run(self) -> None:
        self.lines = self._work()

    @property
    def error(self) -> str:
        """What it ended with."""
        self.join(60)
        return str(self.lines[-1].get("error", f"no error: {self.lines[-1]}"))


def partials(disk: Path) -> list[str]:
    return sorted(path.name for path in disk.rglob("*") if "-partial" in path.name or path.name.startswith(".tmp-"))


def partial_bytes(disk: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in disk.rglob("*-partial"))


def test_a_disk_that_fills_up_during_a_pull_ends_it_and_gets_its_space_back(
    registry: DockerRegistry, disk: Path, daemon: Daemon
) -> None:
    publish(registry, "library/big", None, [(FILLER, os.urandom(FILLER_BYTES))])
    name, before = f"{registry.host}/library/big:latest", free_bytes(disk)
    pull = Asking(daemon, "/api/pull", model=name, insecure=True)
    eventually(lambda: partial_bytes(disk) > 4 * MIB, "the download has begun")
    with ballast(disk, left_bytes=8 * MIB):
        assert "no space left" in pull.error
        assert "make room" in pull.error
    assert partials(disk) == []
    assert free_bytes(disk) > before - SLACK_BYTES
    see_that_it_answers(daemon, "older")
    assert daemon.lines("/api/pull", model=name, insecure=True)[-1] == {"status": "success"}


def test_a_model_that_cannot_fit_is_refused_before_anything_is_fetched(
    registry: DockerRegistry, disk: Path, daemon: Daemon
) -> None:
    publish(registry, "library/big", None, [(FILLER, os.urandom(FILLER_BYTES))])
    before = free_bytes(disk)
    with ballast(disk, left_bytes=FILLER_BYTES):
        lines = daemon.lines("/api/pull", model=f"{registry.host}/library/big:latest", insecure=True)
        assert "does not fit" in lines[-1]["error"]
        assert not any(line.get("digest") for line in lines)
    assert free_bytes(disk) == before


def test_a_disk_that_fills_up_during_the_conversion_leaves_the_layers_and_no_half_variant(
    registry: DockerRegistry, disk: Path, daemon: Daemon, tmp_path: Path
) -> None:
    gguf = write_tiny_gguf(tmp_path / "large.gguf", hidden_size=512, ffn_size=2048, num_layers=10, seed=3)
    publish(registry, "library/large", gguf)
    name, size = f"{registry.host}/library/large:latest", gguf.stat().st_size
    pull = Asking(daemon, "/api/pull", model=name, insecure=True)
    eventually(lambda: partial_bytes(disk) > MIB, "the download has begun")
    with ballast(disk, left_bytes=size - partial_bytes(disk) + 2 * MIB):
        assert "space" in pull.error, pull.error
        assert partials(disk) == []
    assert [model["name"] for model in daemon.http.get("/api/tags").json()["models"]] == ["older:latest"]
    lines = daemon.lines("/api/pull", model=name, insecure=True)
    assert lines[-1] == {"status": "success"}
    see_that_it_answers(daemon, name)


def test_a_create_that_does_not_fit_changes_nothing(disk: Path, daemon: Daemon, tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "large.gguf", hidden_size=512, ffn_size=2048, num_layers=10, seed=4)
    before = free_bytes(disk)
    with ballast(disk, left_bytes=gguf.stat().st_size + MIB):
        lines = daemon.lines("/api/create", model="new", modelfile=f"FROM {gguf}")
        assert "space" in lines[-1]["error"], lines[-1]
        assert partials(disk) == []
    assert free_bytes(disk) > before - SLACK_BYTES


def test_a_create_of_several_files_that_does_not_fit_leaves_none_of_them(
    disk: Path, daemon: Daemon, tmp_path: Path
) -> None:
    directory = write_tiny_directory(tmp_path / "tiny", num_shards=2)
    before = free_bytes(disk)
    with ballast(disk, left_bytes=128 << 10):  # one of the shards
        lines = daemon.lines("/api/create", model="new", modelfile=f"FROM {directory}")
        assert "make room" in lines[-1]["error"], lines[-1]
        assert partials(disk) == []
    assert free_bytes(disk) > before - SLACK_BYTES


def test_a_merge_that_does_not_fit_leaves_nothing(disk: Path, daemon: Daemon, tmp_path: Path) -> None:
    adapter = write_gguf_adapter(tmp_path / "adapter.gguf", {"blk.0.attn_q.weight": random_pair(64, 64)})
    before = free_bytes(disk)
    with ballast(disk, left_bytes=8 * MIB):
        answer = daemon.post("/api/create", model="new", modelfile=f"FROM older\nADAPTER {adapter}")
        assert answer.status_code == 500, answer.text
        assert "not enough disk space" in answer.json()["error"]
        assert partials(disk) == []
    assert free_bytes(disk) > before - SLACK_BYTES


def test_an_upload_that_does_not_fit_leaves_nothing(disk: Path, daemon: Daemon) -> None:
    before = free_bytes(disk)
    with ballast(disk, left_bytes=4 * MIB):
        answer = daemon.http.post(f"/api/blobs/sha256:{'0' * 64}", content=bytes(16 * MIB))
        assert answer.status_code == 500, answer.text
        assert "no space left" in answer.json()["error"]
        assert partials(disk) == []
    assert free_bytes(disk) > before - SLACK_BYTES
