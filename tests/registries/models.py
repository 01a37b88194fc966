"""Models in a registry, put there without Hearth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hearthd.store import media
from hearthd.store.manifest import ImageConfig, Layer, Manifest, encode
from tests.registries.docker import DockerRegistry

FILLER = "application/vnd.example.filler"  # a media type that nobody knows


CONFIG = encode(ImageConfig(model_format="gguf", model_family="llama", architecture="amd64", os="linux"))


def publish(
    registry: DockerRegistry,
    repository: str,
    gguf: Path | None,
    others: Iterable[tuple[str, bytes]] = (),
    tag: str = "latest",
) -> Manifest:
    """Put the model there: the checkpoint and other layers, by media type; its manifest."""
    layers = [(media.MODEL, gguf.read_bytes())] if gguf else []
    placed = [_layer(registry, repository, media_type, data) for media_type, data in [*layers, *others]]
    manifest = Manifest(config=_layer(registry, repository, media.CONFIG, CONFIG), layers=tuple(placed))
    answer = registry.http.put(
        f"/v2/{repository}/manifests/{tag}", content=encode(manifest), headers={"Content-Type": media.MANIFEST}
    )
    assert answer.status_code == 201, answer.text
    return manifest


def _layer(registry: DockerRegistry, repository: str, media_type: str, data: bytes) -> Layer:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if registry.http.head(f"/v2/{repository}/blobs/{digest}").status_code != 200:
        registry.put_blob(repository, data)
    return Layer(media_type, digest, len(data))
