"""Clients that pull, create, copy and delete the same name at once: it is whole or it is not there."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hearthd.store.store import open_store
from tests.e2e.daemon import Daemon, running
from tests.registries.docker import docker_registry
from tests.registries.models import FILLER, publish

NUM_CLIENTS = 4
NUM_TURNS = 20
EXPECTED = ("not found", "is missing")  # what a client may be told while others delete


class Client(threading.Thread):
    """One of those who do not know of each other."""

    def __init__(self, url: str, name: str, gguf: Path, seed: int) -> None:
        super().__init__()
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self._name = name
        self._gguf = gguf
        self._random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        for _ in range(NUM_TURNS):
            act: Callable[[], httpx.Response] = self._random.choice([self.pull, self.create, self.delete, self.copy])
            answer = act()
            error = "" if not answer.content else answer.json().get("error", "")
            self.outcomes[f"{act.__name__} {answer.status_code}"] += 1
            if answer.status_code != 200 and not any(words in error for words in EXPECTED):
                self.failures.append(f"{act.__name__}: {answer.status_code} {error}")
        self._http.close()

    def pull(self) -> httpx.Response:
        return self._post("/api/pull", insecure=True)

    def create(self) -> httpx.Response:
        return self._post("/api/create", modelfile=f"FROM {self._gguf}\nSYSTEM {self._random.random()}")

    def delete(self) -> httpx.Response:
        return self._http.request("DELETE", "/api/delete", json={"model": self._name})

    def copy(self) -> httpx.Response:
        return self._http.post("/api/copy", json={"source": "older", "destination": self._name})

    def _post(self, path: str, **fields: Any) -> httpx.Response:
        return self._http.post(path, json={"model": self._name, "stream": False} | fields)


@pytest.mark.parametrize("seed", [1, 2])
def test_clients_of_one_name_never_see_half_a_model(tiny_gguf: Path, tmp_path: Path, seed: int) -> None:
    with docker_registry(tmp_path / "registry") as registry, running(tmp_path) as daemon:
        daemon.create("older", tiny_gguf)
        publish(registry, "library/shared", tiny_gguf, [(FILLER, bytes(1 << 20))])
        name = f"{registry.host}/library/shared:latest"
        clients = [Client(daemon.url, name, tiny_gguf, seed * 100 + i) for i in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert [failure for client in clients for failure in client.failures] == []
        assert "Traceback" not in daemon.log
        see_that_all_is_whole(daemon, tmp_path / "models")


def see_that_all_is_whole(daemon: Daemon, root: Path) -> None:
    store = open_store(root)
    used = set()
    for model in store.models():
        for part in model.manifest.needed:
            used.add(part.digest)
            data = store.blobs.path(part.digest).read_bytes()
            assert part.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        answer = daemon.post(
            "/api/generate", model=model.name.short, prompt="x", stream=False, options={"num_predict": 1}
        )
        assert answer.status_code == 200, answer.text
    assert "older:latest" in [model.name.short for model in store.models()]
    assert store.blobs.strangers() == []
    assert set(store.blobs.digests()) - used == set(), "blobs of no model were left"
