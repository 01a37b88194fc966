from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.errors import StoreError
from hearthd.store import audit, media
from hearthd.store.blobs import BlobStore
from hearthd.store.manifest import Layer, Manifest, encode


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    (tmp_path / "blobs").mkdir()
    return BlobStore(tmp_path / "blobs")


def manifest_of(blobs: BlobStore, *media_types: str) -> Manifest:
    """A manifest with a config and a layer of each type, all here."""
    config, *layers = (
        Layer(media_type, blobs.put(f"{media_type} {number}".encode()), len(f"{media_type} {number}"))
        for number, media_type in enumerate((media.CONFIG, *media_types))
    )
    return Manifest(config=config, layers=tuple(layers))


def test_manifests_are_found_in_order_and_hidden_files_are_passed_over(blobs: BlobStore, tmp_path: Path) -> None:
    data = encode(manifest_of(blobs, media.MODEL))
    for place in ("b.example/ns/m/t", "registry.ollama.ai/library/m/t", "b.example/ns/m/.tmp-1-2", ".x/ns/m/t"):
        path = tmp_path / "manifests" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert [entry.name for entry in audit.entries(tmp_path / "manifests")] == ["b.example/ns/m:t", "m:t"]


def test_a_directory_in_a_manifests_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifests/h/n/m/t").mkdir(parents=True)
    (entry,) = audit.entries(tmp_path / "manifests")
    assert entry.manifest is None
    assert "Is a directory" in entry.reason


def test_no_directory_is_no_manifest(tmp_path: Path) -> None:
    assert list(audit.entries(tmp_path / "none")) == []
    assert audit.unfinished(BlobStore(tmp_path / "none")) == audit.Unfinished(0, 0)


def test_a_whole_model_has_no_fault_and_each_missing_blob_is_one(blobs: BlobStore) -> None:
    manifest = manifest_of(blobs, media.MODEL, media.TEMPLATE)
    assert audit.faults(blobs, manifest) == []
    blobs.remove(manifest.config.digest)
    blobs.remove(manifest.layers[1].digest)
    assert [fault.split()[1] for fault in audit.faults(blobs, manifest)] == [
        manifest.config.digest,
        manifest.layers[1].digest,
    ]


def test_a_variant_that_was_not_fetched_is_no_fault(blobs: BlobStore) -> None:
    manifest = manifest_of(blobs, media.MODEL, media.VARIANT)
    blobs.remove(manifest.layers[1].digest)
    assert audit.faults(blobs, manifest) == []


def test_a_hashed_blob_reports_its_bytes(blobs: BlobStore) -> None:
    digest, seen = blobs.put(bytes(3 << 20)), list[tuple[int, int]]()
    assert audit.hash_blob(blobs, digest, lambda done, total: seen.append((done, total)))
    assert seen == [(step << 20, 3 << 20) for step in (1, 2, 3)]


def test_a_blob_that_is_gone_cannot_be_hashed(blobs: BlobStore) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        audit.hash_blob(blobs, f"sha256:{'0' * 64}", lambda done, total: None)
