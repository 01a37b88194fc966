"""A variant of a checkpoint where there is none yet."""

from __future__ import annotations

import sys
from contextlib import aclosing

from hearthd.registry.exporter import convert
from hearthd.registry.progress import Progress, Report
from hearthd.store.blobs import normal_digest
from hearthd.store.store import ModelStore
from hearthd.store.variant import EXPORTER
from hearthd.threads import in_thread


async def ensure_variant(store: ModelStore, digest: str, report: Report, *, python: str = sys.executable) -> None:
    """Convert the checkpoint unless this version of the exporter has done so. Raises ExportFailed, StoreError."""
    if any(info.exporter == EXPORTER for _, info in store.variants(digest)):
        return
    steps = convert(store.blobs.path(digest), normal_digest(digest), store.variant_root(digest), python=python)
    async with aclosing(steps):
        async for step in steps:
            if not step.variant:
                report(Progress(f"converting to ONNX ({step.stage})", normal_digest(digest), step.total, step.done))
    await in_thread(lambda: store.prompts.forget(digest))  # another graph evaluated them
