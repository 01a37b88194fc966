"""Converted models packed as layers of a manifest; store/shipped.py unpacks them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from hearthd.errors import BadRequest, StoreError
from hearthd.registry.progress import Progress, Report
from hearthd.store import media
from hearthd.store.manifest import PROVIDER_NOTE, SOURCE_NOTE, Layer, Manifest
from hearthd.store.store import ModelStore
from hearthd.store.variant import SOURCE_FILE, VARIANT_FILE, VariantInfo
from hearthd.threads import in_thread

HASH_STEP_BYTES = 32 << 20  # between two progress lines

PACKED = (media.VARIANT, media.VARIANT_FILE, media.SOURCE)


class Parcel(msgspec.Struct, frozen=True):
    """A layer and the file that holds it."""

    layer: Layer
    path: Path


async def pack_variants(store: ModelStore, source: str, report: Report) -> list[Parcel]:
    """The variants of the checkpoint `source` as layers. Raises BadRequest where it has none, StoreError."""
    found = store.variants(source)
    if not found:
        raise BadRequest(f"nothing was converted from {source} on this device; load the model once, then push it")
    parcels = []
    for directory, info in found:
        for file in (VARIANT_FILE, *sorted(info.files)):
            layer = await _layer(directory / file, f"{info.name}/{file}", report)
            parcels.append(Parcel(_annotated(layer, info) if file == VARIANT_FILE else layer, directory / file))
    path = store.variant_root(source) / SOURCE_FILE
    layer = await _layer(path, SOURCE_FILE, report)
    return [*parcels, Parcel(msgspec.structs.replace(layer, media_type=media.SOURCE), path)]


def without_variants(manifest: Manifest) -> tuple[Layer, ...]:
    """The layers that are no packed variant's."""
    return tuple(layer for layer in manifest.layers if layer.media_type not in PACKED)


def _annotated(layer: Layer, info: VariantInfo) -> Layer:
    notes = {SOURCE_NOTE: info.source, PROVIDER_NOTE: info.provider}
    return msgspec.structs.replace(layer, media_type=media.VARIANT, annotations=notes)


async def _layer(path: Path, name: str, report: Report) -> Layer:
    loop = asyncio.get_running_loop()

    def on_progress(done: int, total: int) -> None:
        loop.call_soon_threadsafe(report, Progress(f"hashing {name}", total=total, completed=done))

    digest, size = await in_thread(lambda: _hash(path, on_progress))
    return Layer(media.VARIANT_FILE, digest, size, name=name)


def _hash(path: Path, on_progress: Callable[[int, int], None]) -> tuple[str, int]:
    """Digest and bytes of the file; StoreError where it cannot be read."""
    hashing, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(1 << 20))
    try:
        with path.open("rb", buffering=0) as file:
            total = os.fstat(file.fileno()).st_size
            while count := file.readinto(buffer):
                hashing.update(buffer[:count])
                done += count
                if done % HASH_STEP_BYTES == 0:
                    on_progress(done, total)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    return "sha256:" + hashing.hexdigest(), done
