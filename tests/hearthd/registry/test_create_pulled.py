from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hearthd.errors import BadRequest, TransferFailed
from hearthd.registry.create import create
from hearthd.registry.progress import Progress
from hearthd.registry.pull import pull
from hearthd.registry.spec import CreateSpec
from hearthd.registry.transfers import Transfers
from hearthd.store import media, names
from hearthd.store.names import ModelName
from hearthd.store.store import ModelStore
from tests.hearthd.registry.making import everything, spec
from tests.registries.docker import DockerRegistry, docker_registry
from tests.registries.models import publish
from tests.registries.wire import all_of, name_at, statuses, with_transfers


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def made(store: ModelStore, spec: CreateSpec, **settings: Any) -> list[Progress]:
    """A create whose parent may be pulled."""

    async def work(transfers: Transfers) -> list[Progress]:
        def fetch(name: ModelName) -> AsyncGenerator[Progress, None]:
            return pull(store, transfers, name, insecure=True)

        return await all_of(create(store, spec, pull=fetch, **settings))

    return with_transfers(work)


def test_missing_parent_is_pulled_in_the_same_stream(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    publish(registry, "library/parent", tiny_gguf, [(media.SYSTEM, b"Be brief.")])
    parent = name_at(registry, "library/parent")
    seen = statuses(made(store, spec("child", from_model=parent, parameters={"top_k": 1})))
    assert seen[0] == "pulling manifest"
    assert seen.index("verifying sha256 digest") < seen.index("writing manifest")
    assert seen[-1] == "success"
    contents = store.contents(store.resolve(names.parse("child")))
    assert (contents.system, contents.params) == ("Be brief.", {"top_k": 1})
    assert store.resolve(parent).source == contents.model_digest


def test_parent_that_is_here_is_not_pulled(registry: DockerRegistry, store: ModelStore, tiny_gguf: Path) -> None:
    publish(registry, "library/here", tiny_gguf)
    parent = name_at(registry, "library/here")
    made(store, spec("one", from_model=parent))
    before = registry.requests("GET", "library/here")
    assert "pulling manifest" not in statuses(made(store, spec("two", from_model=parent)))
    assert registry.requests("GET", "library/here") == before


def test_success_comes_once_and_at_the_end(registry: DockerRegistry, store: ModelStore, tiny_gguf: Path) -> None:
    publish(registry, "library/once", tiny_gguf)
    steps = made(store, spec("child", from_model=name_at(registry, "library/once")))
    assert [at for at, step in enumerate(steps) if step.status == "success"] == [len(steps) - 1]


def test_parent_that_nobody_has_is_told_as_a_pull_tells_it(registry: DockerRegistry, store: ModelStore) -> None:
    with pytest.raises(TransferFailed, match="pull model manifest: file does not exist"):
        made(store, spec("child", from_model=name_at(registry, "library/nobody")))
    assert everything(store) == set()


def test_refusal_of_the_spec_comes_before_any_pull(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    publish(registry, "library/early", tiny_gguf)
    fields = {"from_model": name_at(registry, "library/early"), "adapters": {"a": "sha256:" + "0" * 64}}
    with pytest.raises(BadRequest, match="upload it"):
        made(store, spec("child", **fields))
    assert registry.requests("GET", "library/early") == 0
