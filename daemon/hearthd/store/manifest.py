"""Manifests and config blobs: what a model is made of.

A manifest is stored byte for byte as it came, because its digest is the model's digest.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from hearthd.errors import StoreError
from hearthd.store import media

MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 4 << 20

# annotations of a variant's layer
SOURCE_NOTE = "hearth.source"  # digest of the checkpoint that it was converted from
PROVIDER_NOTE = "hearth.provider"  # the provider class that runs it: "cpu"

# annotation of a checkpoint's index
COMMIT_NOTE = "hearth.commit"  # of the hub repository that it was pulled from

OPTIONAL = frozenset((media.VARIANT, media.VARIANT_FILE))

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class Layer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One blob of a model, and what it is for."""

    media_type: str
    digest: str  # "sha256:<hex>"
    size: int  # bytes
    from_: str = msgspec.field(name="from", default="")
    name: str = ""
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The parts of a model; `layers` in the order in which they apply."""

    schema_version: int = 2
    media_type: str = media.MANIFEST
    config: Layer
    layers: tuple[Layer, ...] = ()

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The config and the layers."""
        return (self.config, *self.layers)

    @property
    def needed(self) -> tuple[Layer, ...]:
        """The parts that make the model whole: all but variants, which this device need not have."""
        return tuple(part for part in self.parts if part.media_type not in OPTIONAL)

    @property
    def source(self) -> str | None:
        """Digest of the checkpoint, `sha256:<hex>`, in the manifest or not; None where the model has none."""
        models = self.of(*media.SOURCES)
        if models:
            return models[0].digest
        sources = (layer.annotations.get(SOURCE_NOTE, "") for layer in self.of(media.VARIANT))
        return next((source for source in sources if _DIGEST.fullmatch(source)), None)

    @property
    def size_bytes(self) -> int:
        """Bytes of the config and of all layers."""
        return sum(part.size for part in self.parts)

    def of(self, *media_types: str) -> tuple[Layer, ...]:
        """The layers of these types, in order."""
        return tuple(layer for layer in self.layers if layer.media_type in media_types)


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The config blob's facts that Hearth knows; other keys are not kept."""

    model_format: str = ""  # "gguf"
    model_family: str = ""  # "llama"
    model_families: tuple[str, ...] = ()
    model_type: str = ""  # parameter count for people: "134.52M"
    file_type: str = ""  # quantization: "Q4_1"
    architecture: str = ""  # "amd64" whatever the machine: what other stores write
    os: str = ""  # "linux"
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    base_name: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0  # tokens
    embedding_length: int = 0


def decode_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`. Raises StoreError naming `where` and what is wrong."""
    fields = _object(data, where, "manifest")
    if isinstance(layers := fields.get("layers"), list):
        fields["layers"] = [_without_nulls(layer) for layer in layers]
    try:
        manifest = msgspec.convert(fields, Manifest)
    except msgspec.ValidationError as error:
        raise StoreError(f"{where}: manifest is damaged: {error}") from error
    for part in manifest.parts:
        _check_part(part, where)
    return manifest


def decode_config(data: bytes, where: str) -> ImageConfig:
    """The config in `data`; null counts as absent. Raises StoreError naming `where` and what is wrong."""
    try:
        return msgspec.convert(_object(data, where, "config"), ImageConfig)
    except msgspec.ValidationError as error:
        raise StoreError(f"{where}: config is damaged: {error}") from error


def encode(record: Manifest | ImageConfig) -> bytes:
    """Compact JSON, as it is stored."""
    return msgspec.json.encode(record)


def _object(data: bytes, where: str, noun: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = _without_nulls(msgspec.json.decode(data, type=dict[str, Any]))
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"{where}: {noun} is damaged: {error}") from error
    return fields


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}


def _check_part(part: Layer, where: str) -> None:
    if not _DIGEST.fullmatch(part.digest):
        raise StoreError(f"{where}: manifest is damaged: digest {part.digest[:80]!r} is not sha256:<64 hex digits>")
    if part.size < 0:
        raise StoreError(f"{where}: manifest is damaged: size {part.size} of {part.digest} is negative")
