"""From a stored model to a variant that this device runs: found, converted or packed."""

from __future__ import annotations

import logging
from pathlib import Path

from hearthd.errors import ExportFailed
from hearthd.log import fields
from hearthd.registry.packing import ensure_packed
from hearthd.registry.progress import Progress, Report
from hearthd.registry.variants import ensure_variant
from hearthd.store import media
from hearthd.store.shipped import PROVIDERS, install_shipped
from hearthd.store.store import ModelStore, StoredModel
from hearthd.store.variant import ENCODER, VariantInfo
from hearthd.threads import in_thread

log = logging.getLogger(__name__)


async def prepare(
    store: ModelStore, model: StoredModel, *, packed: bool = False, kv_type: str = ""
) -> tuple[Path, VariantInfo]:
    """A variant of the model that this device runs, converted and `packed` now where there is none.

    Raises ExportFailed, StoreError.
    """
    contents = store.contents(model)
    if contents.adapters:
        raise ExportFailed(f"{model.name.short} has an adapter, which this version cannot merge into its checkpoint")
    is_shipped = await in_thread(lambda: install_shipped(store, model.manifest))
    if model.manifest.of(*media.SOURCES):
        if not (is_shipped and _has_variant(store, contents.model_digest)):
            await ensure_variant(store, contents.model_digest, _stage_log(model.name.short))
    elif not is_shipped:
        raise ExportFailed(f"{model.name.short} holds no checkpoint that can be run")
    found = [(path, info) for path, info in store.variants(contents.model_digest) if info.provider in PROVIDERS]
    if not found:
        raise ExportFailed(f"{model.name.short}: the converter left no variant")
    directory, info = found[0]
    if packed and info.kind != ENCODER:
        await ensure_packed(directory, info, kv_type)
    return directory, info


def _has_variant(store: ModelStore, digest: str) -> bool:
    return any(info.provider in PROVIDERS and info.serves(store.goal) for _, info in store.variants(digest))


def _stage_log(name: str) -> Report:
    """Tells the log of each new stage."""
    last = ""

    def report(progress: Progress) -> None:
        nonlocal last
        if progress.status != last:
            last = progress.status
            log.info("%s: %s", name, last, extra=fields(model=name))

    return report
