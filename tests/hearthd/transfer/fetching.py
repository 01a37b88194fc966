"""What the tests of fetching share: settings, orders and data."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hearthd.transfer.messages import Answer, Failed, FetchBlob, FetchManifest, Repository, Settings
from tests.registries.misbehaving import MisbehavingRegistry
from tests.registries.sender import Sender, sender

MIB = 1 << 20
PART_BYTES = 16 * MIB  # of one request


def settings(**fields: Any) -> Settings:
    """Settings that give up soon."""
    quick = {"stall_timeout_s": 0.5, "backoff_s": 0.05, "num_retries": 3}
    return Settings(**{"version": "1.2.3"} | quick | fields)


def random_bytes(num_bytes: int, seed: int = 1) -> bytes:
    """The same for the same seed."""
    return random.Random(seed).randbytes(num_bytes)


def repository(registry: MisbehavingRegistry, path: str = "library/tiny") -> Repository:
    """A repository of the registry."""
    return Repository(host=registry.host, path=path, plain=True)


def blob_order(registry: MisbehavingRegistry, digest: str, directory: Path, **fields: Any) -> FetchBlob:
    """The order to fetch the blob."""
    size = len(registry.blobs[digest].data) if digest in registry.blobs else 10
    whole: dict[str, Any] = {
        "id": 1,
        "repository": repository(registry),
        "digest": digest,
        "size": size,
        "directory": str(directory),
    }
    return FetchBlob(**whole | fields)


def manifest_order(registry: MisbehavingRegistry, reference: str = "latest", **fields: Any) -> FetchManifest:
    """The order to fetch a manifest."""
    whole: dict[str, Any] = {"id": 1, "repository": repository(registry), "reference": reference}
    return FetchManifest(**whole | fields)


def failure(answers: list[Answer]) -> Failed:
    """How the job failed."""
    assert isinstance(answers[-1], Failed), answers[-1]
    return answers[-1]


def names(directory: Path) -> list[str]:
    """What is in the directory, with `<hex>` for digests."""
    return sorted(
        path.name.replace(path.name[7:71], "<hex>") if path.name.startswith("sha256-") else path.name
        for path in directory.iterdir()
    )


class Processes:
    """The processes of a module's tests, one at a time."""

    def __init__(self, stack: ExitStack, **fields: Any) -> None:
        self._stack = stack
        self._settings = settings(**fields)
        self._last: Sender | None = None

    @property
    def serving(self) -> Sender:
        """The one that serves; after a test ended it, a new one."""
        if self._last is None or self._last.process.poll() is not None:
            self._last = self._stack.enter_context(sender(self._settings))
        return self._last
