"""What a start of the daemon removes from the store, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hearthd.store.store import GARBAGE_AGE_S, open_store
from tests.e2e.daemon import running


def litter(directory: Path) -> tuple[Path, Path]:
    """Two blobs that no model uses: an old and a young one."""
    store = open_store(directory / "models")
    old, young = (store.blobs.path(store.blobs.put(data)) for data in (b"old", b"young"))
    past = time.time() - GARBAGE_AGE_S - 60
    os.utime(old, (past, past))
    return old, young


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nobody can write in `directory`, root included."""
    mounts = (["--bind", str(directory), str(directory)], ["-o", "remount,ro,bind", str(directory)])
    for at, options in enumerate(mounts):
        if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
            if at:
                subprocess.run(["umount", str(directory)], check=True)
            pytest.skip("this user cannot mount, so nothing is read-only to it")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_start_removes_old_garbage_and_only_that(tmp_path: Path) -> None:
    old, young = litter(tmp_path)
    with running(tmp_path):
        assert [path.exists() for path in (old, young)] == [False, True]


def test_start_removes_nothing_with_noprune(tmp_path: Path) -> None:
    old, young = litter(tmp_path)
    with running(tmp_path, HEARTH_NOPRUNE="1"):
        assert [path.exists() for path in (old, young)] == [True, True]


def test_read_only_store_serves_and_stays_as_it_is(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
    old, young = litter(tmp_path)
    files = sorted(path for path in (tmp_path / "models").rglob("*"))
    with read_only(tmp_path / "models"), running(tmp_path, HEARTH_CACHE=str(tmp_path / "cache")) as daemon:
        fields = {"options": {"num_predict": 2}, "stream": False}
        assert daemon.post("/api/generate", model="tiny", prompt="x", **fields).json()["done"] is True
        created = daemon.post("/api/create", model="new", modelfile="FROM tiny\nSYSTEM x")
        deleted = daemon.http.request("DELETE", "/api/delete", json={"model": "tiny"})
        for refused in (created, deleted):
            assert (refused.status_code, "read-only; set HEARTH_MODELS" in refused.json()["error"]) == (500, True)
        assert [model["name"] for model in daemon.http.get("/api/tags").json()["models"]] == ["tiny:latest"]
    assert sorted(path for path in (tmp_path / "models").rglob("*")) == files
    assert [path.exists() for path in (old, young)] == [True, True]
