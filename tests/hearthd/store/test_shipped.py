from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.store import media, names
from hearthd.store.manifest import PROVIDER_NOTE, SOURCE_NOTE, ImageConfig, Layer, Manifest, encode
from hearthd.store.shipped import install_shipped, parts_for_device, shipped_variants
from hearthd.store.store import ModelStore, open_store
from hearthd.store.variant import read_source, read_variant

SOURCE = "sha256:" + "5" * 64


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "models")


def layer(store: ModelStore, media_type: str, name: str, data: bytes, **annotations: str) -> Layer:
    return Layer(media_type, store.blobs.put(data), len(data), name=name, annotations=annotations)


def variant_json(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "name": "cpu-int4", "exporter": "1", "source": SOURCE, "architecture": "llama", "holders": {},
        "files": {"model.onnx": 5, "tokenizer.json": 2}, "context_length": 8, "vocab_size": 8, "hidden_size": 8,
        "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 8, "ropes": [{"inv_freq": [1.0]}],
    }  # fmt: skip
    return msgspec.json.encode(fields | changes)


SOURCE_JSON = msgspec.json.encode(
    {"architecture": "llama", "file_type": "Q4_1", "parameter_count": 1, "metadata": {}, "tensors": []}
)


def packed(store: ModelStore, provider: str = "cpu", name: str = "cpu-int4", **changes: Any) -> list[Layer]:
    notes = {SOURCE_NOTE: SOURCE, PROVIDER_NOTE: provider}
    descriptor = variant_json(name=name, provider=provider, **changes)
    return [
        msgspec.structs.replace(layer(store, media.VARIANT, f"{name}/variant.json", descriptor), annotations=notes),
        layer(store, media.VARIANT_FILE, f"{name}/model.onnx", b"graph"),
        layer(store, media.VARIANT_FILE, f"{name}/tokenizer.json", b"{}"),
        layer(store, media.SOURCE, "source.json", SOURCE_JSON),
    ]


def manifest_of(store: ModelStore, layers: list[Layer]) -> Manifest:
    config = encode(ImageConfig())
    return Manifest(config=Layer(media.CONFIG, store.blobs.put(config), len(config)), layers=tuple(layers))


def test_a_shipped_variant_is_installed_as_links_to_its_blobs(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    assert install_shipped(store, manifest)
    directory = store.variant_root(SOURCE) / "cpu-int4"
    info = read_variant(directory)
    assert info is not None and info.source == SOURCE
    graph = next(part for part in manifest.layers if part.name.endswith("model.onnx"))
    assert (directory / "model.onnx").samefile(store.blobs.path(graph.digest))
    assert read_source(store.variant_root(SOURCE) / "source.json") is not None
    assert [path.name for path in store.variant_root(SOURCE).iterdir() if path.name.startswith(".")] == []


def test_installing_again_changes_nothing(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    assert install_shipped(store, manifest)
    before = (store.variant_root(SOURCE) / "cpu-int4").stat().st_ino
    assert install_shipped(store, manifest)
    assert (store.variant_root(SOURCE) / "cpu-int4").stat().st_ino == before


def test_a_damaged_directory_is_replaced_by_the_shipped_variant(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    damaged = store.variant_root(SOURCE) / "cpu-int4"
    damaged.mkdir(parents=True)
    (damaged / "variant.json").write_text("{")
    assert install_shipped(store, manifest)
    assert read_variant(damaged) is not None


def test_a_lost_variant_comes_back_from_its_blobs(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    assert install_shipped(store, manifest)
    shutil.rmtree(store.variants_root)
    assert install_shipped(store, manifest)


def test_prompts_that_the_variant_before_evaluated_are_gone_when_another_is_installed(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    prompt = store.prefix_dir / SOURCE.removeprefix("sha256:") / "key" / "a.kv"
    prompt.parent.mkdir(parents=True)
    prompt.touch()
    assert install_shipped(store, manifest)
    assert not prompt.exists()
    prompt.parent.mkdir(parents=True)
    prompt.touch()
    assert install_shipped(store, manifest)
    assert prompt.exists()


def test_without_its_blobs_nothing_is_installed(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    store.blobs.remove(manifest.layers[1].digest)
    assert not install_shipped(store, manifest)
    assert store.variants(SOURCE) == []


def test_another_devices_variant_is_not_wanted_here(store: ModelStore) -> None:
    manifest = manifest_of(store, [*packed(store, "cuda", "cuda-int4"), *packed(store)])
    wanted = {part.name for part in parts_for_device(manifest)}
    assert {"cpu-int4/variant.json", "cpu-int4/model.onnx", "source.json"} <= wanted
    assert not any(name.startswith("cuda") for name in wanted)
    assert not install_shipped(store, manifest_of(store, packed(store, "cuda", "cuda-int4")))


def test_a_manifest_is_whole_without_other_devices_variants(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store, "cuda", "cuda-int4"))
    for part in manifest.layers[:2]:
        store.blobs.remove(part.digest)
    model = store.write_manifest(names.parse("m"), encode(manifest))
    assert model.source == SOURCE


@pytest.mark.parametrize(
    "changes",
    [
        {"graph": "../../../etc/passwd"},
        {"tokenizer": "/etc/passwd"},
        {"files": {"../outside": 1}},
        {"files": {"model.onnx": 4}},
        {"source": "sha256:" + "6" * 64},
        {"schema": 99},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_variant_that_does_not_hold_what_it_says_is_refused(store: ModelStore, changes: dict[str, Any]) -> None:
    assert not install_shipped(store, manifest_of(store, packed(store, **changes)))
    assert store.variants(SOURCE) == []
    assert not any(store.variant_root(SOURCE).glob("*"))


@pytest.mark.parametrize("name", ["../x/variant.json", "/variant.json", "a/b/variant.json", "variant.json", "a/other"])
def test_a_malformed_name_is_no_variant(store: ModelStore, name: str) -> None:
    notes = {SOURCE_NOTE: SOURCE, PROVIDER_NOTE: "cpu"}
    odd = msgspec.structs.replace(layer(store, media.VARIANT, name, variant_json()), annotations=notes)
    assert shipped_variants(manifest_of(store, [odd])) == []


def test_a_file_whose_name_leads_elsewhere_is_left_out(store: ModelStore) -> None:
    odd = layer(store, media.VARIANT_FILE, "cpu-int4/../../x", b"?")
    (variant,) = shipped_variants(manifest_of(store, [*packed(store), odd]))
    assert set(variant.layers) == {"variant.json", "model.onnx", "tokenizer.json"}


def test_deleting_the_model_removes_its_variant(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    store.write_manifest(names.parse("m"), encode(manifest))
    install_shipped(store, manifest)
    store.delete(names.parse("m"))
    assert store.blobs.digests() == []
    assert not store.variant_root(SOURCE).exists()


def test_pruning_keeps_the_variant_of_a_model_without_checkpoint(store: ModelStore) -> None:
    manifest = manifest_of(store, packed(store))
    store.write_manifest(names.parse("m"), encode(manifest))
    install_shipped(store, manifest)
    store.prune(now=4e9)
    assert len(store.variants(SOURCE)) == 1
