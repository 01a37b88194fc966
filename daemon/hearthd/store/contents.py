"""What a model's layers say, decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hearthd.errors import StoreError
from hearthd.store import media
from hearthd.store.blobs import BlobStore
from hearthd.store.manifest import Layer, Manifest

T = TypeVar("T")

MAX_TEXT_BYTES = 8 << 20  # of one template, system text, licence, ...


class Message(msgspec.Struct, frozen=True):
    """One message that precedes every conversation with the model."""

    role: str
    content: str = ""


class ModelContents(msgspec.Struct, frozen=True, kw_only=True):
    """The layers of a model. Empty text: the model has no such layer."""

    model_digest: str = ""  # "sha256:<hex>" of the checkpoint; "" where the model has none
    model_path: Path | None = None  # None also where only what was converted from it is here
    adapters: tuple[Path, ...] = ()
    projectors: tuple[Path, ...] = ()
    template: str = ""
    system: str = ""
    params: dict[str, Any] = {}  # as stored; check them by options.check_option
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()


_params_decoder = msgspec.json.Decoder(dict[str, Any])
_messages_decoder = msgspec.json.Decoder(tuple[Message, ...])


def read_contents(blobs: BlobStore, manifest: Manifest) -> ModelContents:
    """The contents of the model. Raises StoreError naming the blob that is missing or damaged."""
    models = manifest.of(media.MODEL)
    return ModelContents(
        model_digest=manifest.source or "",
        model_path=blobs.path(models[0].digest) if models else None,
        adapters=_paths(blobs, manifest.of(media.ADAPTER)),
        projectors=_paths(blobs, manifest.of(media.PROJECTOR)),
        template=_last_text(blobs, manifest.of(media.TEMPLATE, media.PROMPT)),
        system=_last_text(blobs, manifest.of(media.SYSTEM)),
        params=_decoded(blobs, manifest.of(media.PARAMS), _params_decoder) or {},
        messages=_decoded(blobs, manifest.of(media.MESSAGES), _messages_decoder) or (),
        licenses=tuple(_text(blobs, layer) for layer in manifest.of(media.LICENSE)),
    )


def _paths(blobs: BlobStore, layers: tuple[Layer, ...]) -> tuple[Path, ...]:
    return tuple(blobs.path(layer.digest) for layer in layers)


def _text(blobs: BlobStore, layer: Layer) -> str:
    return blobs.read(layer.digest, MAX_TEXT_BYTES).decode("utf-8", "replace")


def _last_text(blobs: BlobStore, layers: tuple[Layer, ...]) -> str:
    return _text(blobs, layers[-1]) if layers else ""


def _decoded(blobs: BlobStore, layers: tuple[Layer, ...], decoder: msgspec.json.Decoder[T]) -> T | None:
    if not layers:
        return None
    digest = layers[-1].digest
    try:
        return decoder.decode(blobs.read(digest, MAX_TEXT_BYTES))
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"blob {digest} ({layers[-1].media_type}) is damaged: {error}") from error
