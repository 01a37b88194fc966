"""Repositories of the hub pulled with the real huggingface_hub and transfer process, from a hub on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.errors import HearthError, StoreError, TransferFailed
from hearthd.registry import hub as hub_module
from hearthd.registry.pull import pull
from hearthd.registry.transfers import Transfers
from hearthd.store import media, names
from hearthd.store.manifest import COMMIT_NOTE
from hearthd.store.store import ModelStore, open_store
from hearthd.transfer.messages import MISMATCH, NOT_FOUND, UNAUTHORIZED, Settings
from tests.hearthd.registry.making import make_from_text
from tests.registries.hub import Hub, loopback_hub
from tests.registries.misbehaving import corrupted, digest_of, reset, status, truncated
from tests.registries.wire import all_of, statuses
from tests.tiny_directory import write_tiny_directory

NAME = "hf.co/somebody/tiny"
LICENSE = b"Do what you like.\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tiny llama in two parts, and what other repositories have beside."""
    directory = write_tiny_directory(tmp_path_factory.mktemp("tiny") / "tiny", num_shards=2)
    found = {path.name: path.read_bytes() for path in directory.iterdir()}
    return found | {
        "LICENSE": LICENSE,
        "README.md": b"# Tiny",
        "pytorch_model.bin": b"\x80pickle",
        ".gitattributes": b"",
    }


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with loopback_hub() as hub:
        hub.publish("somebody/tiny", files)
        yield hub


@pytest.fixture(scope="module")
def converted(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory `variants` of a store that has the tiny llama: most tests need not convert it once more."""
    store = open_store(tmp_path_factory.mktemp("converted") / "models")
    with pytest.MonkeyPatch.context() as monkeypatch, loopback_hub() as hub:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        hub.publish("somebody/tiny", files)
        pulled(hub, store)
    return store.variants_root


@pytest.fixture
def store(tmp_path: Path, converted: Path) -> ModelStore:
    store = open_store(tmp_path / "models")
    shutil.copytree(converted, store.variants_root, dirs_exist_ok=True)
    return store


async def _with(hub: Hub, store: ModelStore, name: str, token: str) -> list[str]:
    settings = Settings(version="test", backoff_s=0.05, stall_timeout_s=10.0, num_retries=3)
    transfers = Transfers(settings, environment={"HF_ENDPOINT": f"http://{hub.host}", "HF_TOKEN": token})
    try:
        return statuses(await all_of(pull(store, transfers, names.parse(name))))
    finally:
        await transfers.stop()


def pulled(hub: Hub, store: ModelStore, name: str = NAME, token: str = "") -> list[str]:
    """What a pull says."""
    return asyncio.run(_with(hub, store, name, token))


def refused(hub: Hub, store: ModelStore, name: str = NAME, token: str = "") -> HearthError:
    """Why a pull fails; it leaves no model."""
    with pytest.raises(HearthError) as caught:
        pulled(hub, store, name, token)
    assert store.models() == []
    return caught.value


# --- what a pull brings ---------------------------------------------------------------------------


def test_safetensors_become_a_model_with_index_files_licence_and_variant(
    hub: Hub, tmp_path: Path, files: dict[str, bytes]
) -> None:
    store = open_store(tmp_path / "new")
    said = pulled(hub, store)
    model = store.resolve(names.parse(NAME))
    layers = {layer.name: layer for layer in model.manifest.of(media.FILE)}
    wanted = {name for name in files if name not in ("LICENSE", "README.md", "pytorch_model.bin", ".gitattributes")}
    assert set(layers) == wanted
    assert {name: layer.digest for name, layer in layers.items()} == {name: digest_of(files[name]) for name in wanted}
    (index,) = model.manifest.of(media.INDEX)
    assert index.annotations == {COMMIT_NOTE: hub.repositories["somebody/tiny"].commit}
    assert store.contents(model).licenses == (LICENSE.decode(),)
    assert len(store.variants(index.digest)) == 1
    assert model.config.model_format == "safetensors"
    assert said[0] == "pulling manifest"
    assert {f"pulling {layer.digest[7:19]}" for layer in layers.values()} <= set(said)
    assert said[-2:] == ["writing manifest", "success"]
    assert not [line for line in said if "layer" in line]
    assert not hub.paths("pytorch_model"), "pickles are never fetched"
    assert not hub.paths("README")


def test_the_same_commit_again_fetches_nothing(hub: Hub, store: ModelStore) -> None:
    pulled(hub, store)
    before = store.resolve(names.parse(NAME)).digest
    hub.seen.clear()
    said = pulled(hub, store)
    assert said[-2:] == [f"commit {hub.repositories['somebody/tiny'].commit[:12]} is up to date", "success"]
    assert hub.paths("/resolve/") == []
    assert store.resolve(names.parse(NAME)).digest == before


def test_another_commit_replaces_the_model_and_fetches_what_changed(
    hub: Hub, store: ModelStore, files: dict[str, bytes]
) -> None:
    pulled(hub, store)
    old = store.resolve(names.parse(NAME)).manifest.source
    config = json.dumps(json.loads(files["config.json"]) | {"max_position_embeddings": 2048}).encode()
    hub.publish("somebody/tiny", files | {"config.json": config})
    hub.seen.clear()
    assert "removing unused layers" in pulled(hub, store)
    assert [path for path in hub.paths("/resolve/") if path.endswith(".safetensors")] == []
    model = store.resolve(names.parse(NAME))
    assert model.config.context_length == 2048
    assert old is not None
    assert not store.blobs.has(old)


def test_a_model_changed_by_create_is_pulled_anew(hub: Hub, store: ModelStore) -> None:
    pulled(hub, store)
    make_from_text(store, NAME, f"FROM {NAME}\nSYSTEM be brief")
    assert "writing manifest" in pulled(hub, store)
    assert store.contents(store.resolve(names.parse(NAME))).system == ""


def test_a_missing_file_is_fetched_again_though_the_commit_is_the_same(hub: Hub, store: ModelStore) -> None:
    pulled(hub, store)
    weights = next(
        layer for layer in store.resolve(names.parse(NAME)).manifest.layers if layer.name.endswith("tensors")
    )
    store.blobs.remove(weights.digest)
    assert "writing manifest" in pulled(hub, store)
    assert store.blobs.has(weights.digest)


def test_a_tag_names_a_revision(hub: Hub, store: ModelStore) -> None:
    repository = hub.repositories["somebody/tiny"]
    repository.revisions.add("v1.0")
    pulled(hub, store, f"{NAME}:v1.0")
    assert hub.paths("/revision/v1.0")
    pulled(hub, store, f"{NAME}:{repository.commit}")
    assert {model.name.tag for model in store.models()} == {"v1.0", repository.commit}


def test_a_repository_that_was_renamed_is_fetched_under_its_new_name(hub: Hub, store: ModelStore) -> None:
    hub.publish("else/renamed", hub.repositories["somebody/tiny"].files)
    hub.listing = {"id": "else/renamed"}
    pulled(hub, store)
    assert all(path.startswith("/else/renamed/") for path in hub.paths("/resolve/"))


# --- who may see what -----------------------------------------------------------------------------


def test_a_gated_repository_is_refused_naming_the_token(hub: Hub, store: ModelStore) -> None:
    hub.repositories["somebody/tiny"].gated = True
    error = refused(hub, store)
    assert isinstance(error, TransferFailed)
    assert error.reason == UNAUTHORIZED
    assert "somebody/tiny is private, gated or does not exist; set HF_TOKEN" in str(error)
    assert not hub.paths("/resolve/")


def test_a_token_that_may_not_is_told_so_and_never_shown(
    hub: Hub, store: ModelStore, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["somebody/tiny"].gated = True
    error = refused(hub, store, token="hf_weak_secret")
    assert "HF_TOKEN may not read it; accept its conditions on https://huggingface.co/somebody/tiny" in str(error)
    seen = "".join(capfd.readouterr())
    assert "hf_weak_secret" not in seen + str(error)


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_the_token_opens_the_repository_and_stays_on_the_hub(hub: Hub, store: ModelStore, kind: str) -> None:
    setattr(hub.repositories["somebody/tiny"], kind, True)
    pulled(hub, store, token=hub.token)
    assert {seen.authorization for seen in hub.seen if seen.content_host} == {""}
    assert {seen.authorization for seen in hub.seen if not seen.content_host} == {f"Bearer {hub.token}"}


def test_a_repository_that_is_not_there_is_one_sentence(hub: Hub, store: ModelStore) -> None:
    error = refused(hub, store, "hf.co/somebody/nothing", token=hub.token)
    assert isinstance(error, TransferFailed)
    assert error.reason == NOT_FOUND
    assert "hf.co/somebody/nothing is private, gated or does not exist" in str(error)


def test_an_unknown_revision_is_named(hub: Hub, store: ModelStore) -> None:
    error = refused(hub, store, f"{NAME}:Q4_K_M")
    assert str(error) == "hf.co/somebody/tiny has no quantization, branch, tag or commit Q4_K_M"


def test_a_limit_of_requests_is_told_with_when_to_come_back(hub: Hub, store: ModelStore) -> None:
    hub.api_faults = [status(429, Retry_After="55")]
    assert "limits requests (429); try again in 55 s, or set HF_TOKEN" in str(refused(hub, store))


# --- what is odd ----------------------------------------------------------------------------------


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: Hub, store: ModelStore) -> None:
    hub.api_faults = [status(503), status(502)]
    assert pulled(hub, store)[-1] == "success"


def test_a_hub_that_keeps_failing_is_named_with_its_status(hub: Hub, store: ModelStore) -> None:
    hub.api_faults = [status(503)] * 9
    assert str(refused(hub, store)) == "hf.co/somebody/tiny cannot be listed: hf.co answers 503"


def test_an_answer_that_is_no_listing_is_refused(hub: Hub, store: ModelStore) -> None:
    hub.api_faults = [status(200, "[1, 2")]
    assert "is not understood" in str(refused(hub, store))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha": "main"}, "without its name or commit"),
        ({"id": "../../etc"}, "without its name or commit"),
        ({"siblings": [{"rfilename": "config.json"}]}, "without size and digest of 'config.json'"),
        ({"siblings": [{"rfilename": "config.json", "size": -1, "blobId": "0" * 40}]}, "without size and digest"),
        ({"siblings": []}, "holds no model: none of its 0 files"),
    ],
)
def test_a_hostile_listing_is_refused(hub: Hub, store: ModelStore, changes: dict[str, object], says: str) -> None:
    hub.listing = changes
    assert says in str(refused(hub, store))


def test_offline_by_huggingface_hubs_own_switch_is_told(
    hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in str(refused(hub, store))


def test_a_broken_connection_is_taken_up_where_it_ended(hub: Hub, store: ModelStore, files: dict[str, bytes]) -> None:
    weights = max((name for name in files if name.endswith(".safetensors")), key=lambda name: len(files[name]))
    hub.blob("somebody/tiny", weights).faults = [truncated(20_000), reset(20_000)]
    hub.blob("somebody/tiny", "tokenizer.json").faults = [truncated(100), reset(200)]
    assert pulled(hub, store)[-1] == "success"
    starts = {start for start, _ in hub.blob("somebody/tiny", weights).served}
    assert starts >= {0, 20_000}


@pytest.mark.parametrize("name", ["tokenizer.json", "model-00001-of-00002.safetensors"])
def test_wrong_content_is_refused_and_removed(hub: Hub, store: ModelStore, name: str) -> None:
    hub.blob("somebody/tiny", name).faults = [corrupted] * 9
    error = refused(hub, store)
    assert isinstance(error, TransferFailed)
    assert error.reason == MISMATCH
    assert "must be downloaded again" in str(error)
    assert not store.blobs.has(digest_of(hub.repositories["somebody/tiny"].files[name]))
    assert store.blobs.strangers() == []


def test_what_does_not_fit_is_refused_before_the_first_byte(
    hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SLACK_BYTES", 1 << 60)
    error = refused(hub, store)
    assert isinstance(error, StoreError)
    assert "does not fit" in str(error)
    assert not hub.paths("/resolve/")


def test_what_the_converter_refuses_is_told_under_the_models_name(
    hub: Hub, store: ModelStore, files: dict[str, bytes]
) -> None:
    strange = json.dumps(json.loads(files["config.json"]) | {"model_type": "unheard_of"}).encode()
    hub.publish("somebody/strange", files | {"config.json": strange})
    error = refused(hub, store, "hf.co/somebody/strange")
    assert "unheard_of" in str(error)
    assert "uploaded" not in str(error)
    assert str(store.root) not in str(error)


def test_a_pull_that_is_left_stops_and_the_next_goes_on(hub: Hub, store: ModelStore, files: dict[str, bytes]) -> None:
    name = "model-00001-of-00002.safetensors"
    hub.blob("somebody/tiny", name).bytes_per_s = len(files[name]) // 3

    async def leave() -> None:
        settings = Settings(version="test")
        transfers = Transfers(settings, environment={"HF_ENDPOINT": f"http://{hub.host}"})
        try:
            async with aclosing(pull(store, transfers, names.parse(NAME))) as steps:
                async for step in steps:
                    if step.digest == digest_of(files[name]) and 0 < step.completed < step.total:
                        break
        finally:
            await transfers.stop()

    asyncio.run(leave())
    assert store.models() == []
    hub.wait_until_quiet()
    hub.blob("somebody/tiny", name).bytes_per_s = 0
    hub.blob("somebody/tiny", name).served.clear()
    assert pulled(hub, store)[-1] == "success"
    assert min(start for start, _ in hub.blob("somebody/tiny", name).served) > 0
