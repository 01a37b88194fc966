from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hearthd.api.guard import Guard
from hearthd.api.routes import Api
from hearthd.api.services import Services
from hearthd.config import load
from hearthd.parts import transfer_settings
from hearthd.preparing import prepare
from hearthd.registry.transfers import Transfers
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import open_store


class Client:
    """One request, and what is answered to it."""

    def __init__(self, body: bytes) -> None:
        self.events = [{"type": "http.request", "body": body}]
        self.status = 0

    async def receive(self) -> dict[str, Any]:
        """The body, then nothing for as long as the request runs."""
        if self.events:
            return self.events.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, event: Any) -> None:
        """What the server says."""
        self.status = event.get("status", self.status)


@pytest.fixture
def api(tmp_path: Path) -> Api:
    """Over an empty store."""
    config = load({"HEARTH_MODELS": str(tmp_path)})
    store = open_store(config.models, config.cache)
    scheduler = Scheduler(partial(prepare, store))
    return Api(Services(config, store, scheduler, Transfers(transfer_settings(config))), Guard("", []))


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Only what counts references frees objects."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/version", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/api/chat", {}, 405),
        ("POST", "/api/chat", {"model": 1}, 400),
        ("POST", "/api/chat", {"model": "absent"}, 404),
        ("POST", "/api/generate", {"model": "absent"}, 404),
    ],
)
@pytest.mark.usefixtures("no_collections")
def test_a_request_that_is_over_does_not_wait_for_a_garbage_collection(
    api: Api, method: str, path: str, body: dict[str, Any], status: int
) -> None:
    client = Client(json.dumps(body).encode())
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    asyncio.run(api(scope, client.receive, client.send))
    assert client.status == status
    left = weakref.ref(client)
    del client
    assert left() is None
