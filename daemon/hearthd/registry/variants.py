"""A variant of a checkpoint where there is none yet."""

from __future__ import annotations

import re
import sys
from contextlib import aclosing

from hearthd.errors import ExportFailed, StoreError
from hearthd.registry.exporter import Place, at, convert
from hearthd.registry.progress import Progress, Report
from hearthd.store.blobs import normal_digest
from hearthd.store.durable import DIR_MODE, TEMP_PREFIX
from hearthd.store.files import laid_out, read_index
from hearthd.store.store import ModelStore
from hearthd.store.variant import EXPORTER
from hearthd.threads import in_thread


async def ensure_variant(store: ModelStore, digest: str, report: Report, *, python: str = sys.executable) -> None:
    """Convert the checkpoint unless this version of the exporter has done so for the store's goal.

    Raises ExportFailed, StoreError.
    """
    if any(info.exporter == EXPORTER and info.serves(store.goal) for _, info in store.variants(digest)):
        return
    place, root = place_of(store, digest), store.variant_root(digest)
    steps = convert(place, normal_digest(digest), root, store.goal, python=python)
    try:
        async with aclosing(steps):
            async for step in steps:
                if not step.variant:
                    report(Progress(f"converting to ONNX ({step.stage})", normal_digest(digest), step.total, step.done))
    except ExportFailed as error:
        raise ExportFailed(without_directory(store, str(error))) from error
    await in_thread(lambda: store.prompts.forget(digest))  # another graph evaluated them


def place_of(store: ModelStore, digest: str) -> Place:
    """Where a converter finds the checkpoint: the blob itself, or a directory made of the files that an index lists.

    Raises StoreError where the index is damaged or one of its files is not here.
    """
    index = read_index(store.blobs, digest) if store.blobs.has(digest) else None
    if index is None:
        return at(store.blobs.path(digest))
    for name, file in index.files.items():
        if not store.blobs.has(file.digest) or store.blobs.size(file.digest) != file.size:
            raise StoreError(
                f"{name} of the checkpoint {normal_digest(digest)} is missing or damaged (blob {file.digest}); "
                "pull or create its model again"
            )
    store.variants_root.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
    return lambda: laid_out(store.blobs, index, store.variants_root)


def without_directory(store: ModelStore, sentence: str) -> str:
    """A converter's sentence without the name of a directory that is gone when it is read."""
    return re.sub(re.escape(str(store.variants_root / TEMP_PREFIX)) + r"[^/:\s]*", "the checkpoint", sentence)
