"""Pulls and pushes of a store in this process, by a real transfer process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from hearthd.registry.progress import Progress
from hearthd.registry.pull import pull
from hearthd.registry.push import push
from hearthd.registry.transfers import Transfers
from hearthd.store import media, names
from hearthd.store.names import ModelName
from hearthd.store.store import ModelStore
from hearthd.transfer.messages import Settings
from tests.registries.docker import DockerRegistry

T = TypeVar("T")


def name_at(registry: DockerRegistry, repository: str, tag: str = "latest") -> ModelName:
    """The model's name in that registry."""
    return names.parse(f"{registry.host}/{repository}:{tag}")


def with_transfers(work: Callable[[Transfers], Coroutine[Any, Any, T]], **settings: Any) -> T:
    """What `work` returns, with a transfer process of these settings at its service."""

    async def run() -> T:
        transfers = Transfers(Settings(version="test", **settings))
        try:
            return await work(transfers)
        finally:
            await transfers.stop()

    return asyncio.run(run())


async def all_of(steps: AsyncGenerator[Progress, None]) -> list[Progress]:
    """All progress until success."""
    return [progress async for progress in steps]


def pulled(store: ModelStore, name: ModelName, **options: Any) -> list[Progress]:
    """Pull, to the end."""
    return with_transfers(lambda transfers: all_of(pull(store, transfers, name, insecure=True, **options)))


def pushed(store: ModelStore, name: ModelName, **options: Any) -> list[Progress]:
    """Push, to the end."""
    return with_transfers(lambda transfers: all_of(push(store, transfers, name, insecure=True, **options)))


def statuses(steps: list[Progress]) -> list[str]:
    """Each status once, in order."""
    return list(dict.fromkeys(step.status for step in steps))


def digest_at(registry: DockerRegistry, repository: str) -> str:
    """The digest of the model in the registry, without `sha256:`."""
    head = registry.http.head(f"/v2/{repository}/manifests/latest", headers={"Accept": media.MANIFEST})
    return head.headers["Docker-Content-Digest"].removeprefix("sha256:")
