from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearthd.errors import BadRequest, ModelNotFound, TransferFailed
from hearthd.registry.create import create
from hearthd.registry.progress import Progress
from hearthd.registry.push import push
from hearthd.registry.spec import CreateSpec
from hearthd.registry.transfers import Transfers
from hearthd.store import media, names
from hearthd.store.store import ModelStore, open_store
from tests.hearthd.registry.making import make
from tests.registries.docker import DockerRegistry, docker_registry
from tests.registries.models import FILLER, publish
from tests.registries.wire import all_of, digest_at, name_at, pulled, pushed, statuses, with_transfers
from tests.tiny_directory import write_tiny_directory


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "models")


def test_a_pushed_model_is_the_same_model_there(registry: DockerRegistry, store: ModelStore, tiny_gguf: Path) -> None:
    publish(registry, "library/origin", tiny_gguf, [(media.SYSTEM, b"Hi."), (FILLER, os.urandom(9))])
    pulled(store, name_at(registry, "library/origin"))
    name = name_at(registry, "library/again")
    store.copy(name_at(registry, "library/origin"), name)
    model = store.resolve(name)
    steps = pushed(store, name)
    layers = [f"pushing {part.digest[7:19]}" for part in (*model.manifest.layers, model.manifest.config)]
    assert statuses(steps) == ["retrieving manifest", *layers, "pushing manifest", "success"]
    for part in model.manifest.parts:
        last = [step for step in steps if step.digest == part.digest][-1]
        assert (last.completed, last.total) == (part.size, part.size)
    assert digest_at(registry, "library/again") == model.digest


def test_layers_of_the_parent_are_mounted_not_sent(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    publish(registry, "library/parent", tiny_gguf)
    parent, child = name_at(registry, "library/parent"), name_at(registry, "library/child")
    pulled(store, parent)

    async def derive(transfers: Transfers) -> list[Progress]:
        await all_of(create(store, CreateSpec(name=child, from_model=parent, system="I am the child.")))
        return await all_of(push(store, transfers, child, insecure=True))

    before = registry.requests("PATCH", "library/child")
    assert with_transfers(derive)[-1].status == "success"
    assert registry.requests("POST", "library/child/blobs/uploads/?from=library") + registry.requests(
        "POST", "library/child/blobs/uploads/?mount="
    )
    sent = registry.requests("PATCH", "library/child") - before
    model = store.resolve(child)
    assert sent == len(model.manifest.parts) - 1, "the checkpoint was sent although its registry has it"


def test_other_tools_find_the_models_layers_unchanged(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    publish(registry, "library/bare", tiny_gguf, [(media.SYSTEM, b"Hi.")])
    bare, rich = name_at(registry, "library/bare"), name_at(registry, "library/rich")
    pulled(store, bare)
    store.copy(bare, rich)
    pushed(store, rich, with_variants=True)
    manifests = [json.loads(registry.manifest(f"library/{name}", "latest") or b"") for name in ("bare", "rich")]
    ours = [layer for layer in manifests[1]["layers"] if not layer["mediaType"].startswith("application/vnd.hearth.")]
    assert ours == manifests[0]["layers"]
    assert manifests[1]["config"] == manifests[0]["config"]
    extra = [layer["name"] for layer in manifests[1]["layers"][len(ours) :]]
    assert {"cpu-int4/variant.json", "cpu-int4/model.onnx", "cpu-int4/tokenizer.json", "source.json"} <= set(extra)


def test_variants_are_made_for_a_push_where_there_are_none(
    registry: DockerRegistry, store: ModelStore, tiny_gguf: Path
) -> None:
    publish(registry, "library/fresh", tiny_gguf)
    name = name_at(registry, "library/fresh")
    pulled(store, name)
    shutil.rmtree(store.variants_root)
    seen = statuses(pushed(store, name, with_variants=True))
    assert any(status.startswith("converting") for status in seen)
    assert seen[-1] == "success"


def test_a_model_that_is_not_here_cannot_be_pushed(registry: DockerRegistry, store: ModelStore) -> None:
    async def attempt(transfers: Transfers) -> list[str]:
        seen: list[str] = []
        steps = push(store, transfers, name_at(registry, "library/none"), insecure=True)
        with pytest.raises(ModelNotFound, match="not found"):
            while True:
                seen.append((await anext(steps)).status)
        return seen

    assert with_transfers(attempt) == ["retrieving manifest", "couldn't retrieve manifest"]


def test_a_model_without_checkpoint_has_no_variants_to_push(registry: DockerRegistry, store: ModelStore) -> None:
    publish(registry, "library/words", None, [(media.SYSTEM, b"Hi.")])
    name = name_at(registry, "library/words")
    pulled(store, name)
    with pytest.raises(BadRequest, match="no checkpoint"):
        pushed(store, name, with_variants=True)


def test_plain_http_wants_insecure(registry: DockerRegistry, store: ModelStore) -> None:
    name = names.parse(f"http://{registry.host}/library/x")
    with pytest.raises(BadRequest, match="insecure protocol http"):
        with_transfers(lambda transfers: all_of(push(store, transfers, name)))


def test_a_registry_that_wants_a_login_is_told_apart(
    store: ModelStore, tiny_gguf: Path, tmp_path: Path, registry: DockerRegistry
) -> None:
    publish(registry, "library/secret", tiny_gguf)
    pulled(store, name_at(registry, "library/secret"))
    with docker_registry(tmp_path / "closed", htpasswd=True) as closed:
        name = name_at(closed, "library/secret")
        store.copy(name_at(registry, "library/secret"), name)
        with pytest.raises(TransferFailed) as caught:
            pushed(store, name)
        assert caught.value.reason == "unauthorized"


@pytest.mark.parametrize("with_source", [True, False])
def test_model_of_several_files_goes_there_and_back_with_and_without_them(
    registry: DockerRegistry, store: ModelStore, tmp_path: Path, with_source: bool
) -> None:
    name = name_at(registry, f"library/files-{with_source}".lower())
    make(store, CreateSpec(name=name, path=write_tiny_directory(tmp_path / "tiny"), system="Hi."))
    pushed(store, name, with_variants=True, with_source=with_source)
    there = json.loads(registry.manifest(f"{name.namespace}/{name.model}", "latest") or b"")
    kinds = {layer["mediaType"] for layer in there["layers"]}
    assert ({media.INDEX, media.FILE} <= kinds) == with_source
    assert ({media.INDEX, media.FILE} & kinds != set()) == with_source
    other = open_store(tmp_path / "other")
    steps = statuses(pulled(other, name))
    assert not [status for status in steps if status.startswith("converting")]
    ours, theirs = store.resolve(name), other.resolve(name)
    assert theirs.source == ours.source
    assert [info.name for _, info in other.variants(str(theirs.source))] == ["cpu-int8"]
    assert other.contents(theirs).system == "Hi."


def test_pulled_model_of_several_files_is_converted_there(
    registry: DockerRegistry, store: ModelStore, tmp_path: Path
) -> None:
    name = name_at(registry, "library/plain-files")
    make(store, CreateSpec(name=name, path=write_tiny_directory(tmp_path / "tiny")))
    pushed(store, name)
    other = open_store(tmp_path / "other")
    assert any(status.startswith("converting") for status in statuses(pulled(other, name)))
    assert other.resolve(name).digest == store.resolve(name).digest
