from __future__ import annotations

import json
from typing import Any

import pytest

from hearthd.errors import StoreError
from hearthd.store import media
from hearthd.store.manifest import ImageConfig, decode_config, decode_manifest, encode

DIGEST = "sha256:" + "ab" * 32


def manifest(**changes: Any) -> bytes:
    fields = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "config": {"mediaType": media.CONFIG, "digest": DIGEST, "size": 5},
        "layers": [
            {"mediaType": media.MODEL, "digest": DIGEST, "size": 7, "from": "base", "unknown": 1},
            {"mediaType": media.LICENSE, "digest": DIGEST, "size": 1},
        ],
    }
    return json.dumps(fields | changes).encode()


def test_layers_sizes_and_types_are_read() -> None:
    read = decode_manifest(manifest(), "m")
    assert read.size_bytes == 13
    assert [layer.from_ for layer in read.of(media.MODEL)] == ["base"]
    assert len(read.of(media.MODEL, media.LICENSE)) == 2


def test_encoded_manifest_has_the_registry_s_field_names() -> None:
    assert json.loads(encode(decode_manifest(manifest(), "m")))["layers"][0] == {
        "mediaType": media.MODEL,
        "digest": DIGEST,
        "size": 7,
        "from": "base",
    }


def test_null_layers_are_no_layers() -> None:
    assert decode_manifest(manifest(layers=None), "m").layers == ()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "manifest is damaged"),
        (b"{", "manifest is damaged"),
        (b"[]", "manifest is damaged"),
        (b"\xff\xfe", "manifest is damaged"),
        (b"[" * 100_000, "manifest is damaged"),
        (manifest(config=None), "config"),
        (manifest(layers=3), "layers"),
        (manifest(layers=[3]), "layers"),
        (manifest(config={"mediaType": "", "digest": "sha256:../../etc/passwd", "size": 1}), "digest"),
        (manifest(config={"mediaType": "", "digest": DIGEST, "size": -1}), "negative"),
        (manifest(config={"mediaType": "", "digest": DIGEST, "size": "1"}), "size"),
    ],
)
def test_damaged_manifest_is_refused_naming_it_and_the_fault(data: bytes, word: str) -> None:
    with pytest.raises(StoreError, match=word) as caught:
        decode_manifest(data, "library/m/latest")
    assert "library/m/latest" in str(caught.value)


def test_config_ignores_unknown_keys_and_nulls() -> None:
    data = b'{"model_format":"gguf","model_families":null,"rootfs":{"type":"layers"},"model_type":"1B"}'
    assert decode_config(data, "c") == ImageConfig(model_format="gguf", model_type="1B")


def test_damaged_config_is_refused_naming_the_field() -> None:
    with pytest.raises(StoreError, match="context_length"):
        decode_config(b'{"context_length":"many"}', "c")


def test_encoded_config_decodes_to_itself() -> None:
    config = ImageConfig(model_format="gguf", model_families=("llama",), context_length=8192)
    assert decode_config(encode(config), "c") == config
