"""Pulling a model: manifest, layers, variant, and at last the manifest's place in the store.

Until the manifest is written nothing changes for anybody; what was fetched before a failure is found again
by the next pull.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from hearthd.errors import StoreError, TransferFailed
from hearthd.registry.hub import HubPull, may_hold_others
from hearthd.registry.progress import Progress, Report, steps_of
from hearthd.registry.remote import repository_of
from hearthd.registry.transfers import Transfers
from hearthd.registry.variants import ensure_variant
from hearthd.store import media
from hearthd.store.blobs import normal_digest
from hearthd.store.durable import free_bytes
from hearthd.store.manifest import MAX_CONFIG_BYTES, Layer, Manifest, decode_config, decode_manifest
from hearthd.store.names import ModelName
from hearthd.store.shipped import install_shipped, parts_for_device, shipped_variants
from hearthd.store.store import ModelStore
from hearthd.threads import in_thread

MAX_PARTS = 4096
MAX_PART_BYTES = 1 << 44  # 16 TiB: more is a mistake in the manifest
VARIANT_SHARE = 1.3  # bytes of a variant to be expected for a byte of the checkpoint
SLACK_BYTES = 64 << 20  # left free for everything else


async def pull(
    store: ModelStore,
    transfers: Transfers,
    name: ModelName,
    *,
    insecure: bool = False,
    noprune: bool = False,
    python: str = sys.executable,
) -> AsyncGenerator[Progress, None]:
    """Fetch the model, convert it where no variant came with it, and give it its place; what comes is the progress.

    Closing the iterator stops the work; what was fetched stays for the next pull. Raises BadRequest for a name
    that cannot be pulled, TransferFailed, StoreError, ExportFailed.
    """
    repository_of(name, insecure)  # refuses the name before anything is said
    work = _Pull(store, transfers, name, insecure, noprune, python)
    async with aclosing(steps_of(work.run)) as steps:
        async for progress in steps:
            yield progress


class _Pull:
    """One pull at work."""

    def __init__(
        self,
        store: ModelStore,
        transfers: Transfers,
        name: ModelName,
        insecure: bool,
        noprune: bool,
        python: str,
    ) -> None:
        self._store = store
        self._transfers = transfers
        self._name = store.spelling(name)
        self._repository = repository_of(name, insecure)
        self._noprune = noprune
        self._python = python
        self._report: Report

    async def run(self, report: Report) -> None:
        """Do it all."""
        self._report = report
        self._store.check_writable()
        self._report(Progress("pulling manifest"))
        try:
            data = await self._transfers.manifest(self._repository, self._name.tag)
        except TransferFailed as error:
            if not may_hold_others(self._repository, error):
                raise
            await self._hub_pull().run()
        else:
            await self._run_with(data)

    def _hub_pull(self) -> HubPull:
        return HubPull(
            self._store,
            self._transfers,
            self._name,
            self._repository,
            self._report,
            noprune=self._noprune,
            python=self._python,
        )

    async def _run_with(self, data: bytes) -> None:
        manifest = _checked(decode_manifest(data, self._name.short))
        self._check_runnable(manifest)
        parts = _distinct(parts_for_device(manifest))
        with self._store.holding({part.digest for part in parts} | ({manifest.source} if manifest.source else set())):
            await self._fetch(parts, manifest)
            await self._ready(manifest)
            self._report(Progress("writing manifest"))
            replaced = await in_thread(lambda: self._store.replace_manifest(self._name, data))
        self._remove_unused(replaced, parts)
        self._report(Progress("success"))

    async def _fetch(self, parts: list[Layer], manifest: Manifest) -> None:
        missing = [part for part in parts if not self._has(part)]
        self._check_room(missing, manifest)
        for part in parts:
            if part in missing:
                await self._fetch_part(part)
            self._report_part(part, part.size)
        self._report(Progress("verifying sha256 digest"))  # done while the bytes came in
        config = self._store.blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
        decode_config(config, f"{self._name.short}: blob {manifest.config.digest}")

    def _has(self, part: Layer) -> bool:
        blobs = self._store.blobs
        if not blobs.has(part.digest):
            return False
        size = blobs.size(part.digest)
        if size != part.size:
            raise StoreError(f"the manifest gives {part.digest} {part.size} bytes, but it has {size}; it is refused")
        return True

    async def _fetch_part(self, part: Layer) -> None:
        moves = self._transfers.fetch(self._repository, normal_digest(part.digest), part.size, self._store.blobs.root)
        async with aclosing(moves):
            async for moved in moves:
                if moved.completed < part.size:
                    self._report_part(part, moved.completed)
        if not self._store.blobs.has(part.digest):
            raise TransferFailed(f"{part.digest} was fetched, but is not in the store; pull again")

    def _report_part(self, part: Layer, completed: int) -> None:
        digest = normal_digest(part.digest)
        self._report(Progress(f"pulling {digest[7:19]}", digest, part.size, completed))

    def _check_room(self, missing: list[Layer], manifest: Manifest) -> None:
        """StoreError where what is missing, and the variant to be made, do not fit on the disk."""
        if not missing:
            return
        wanted = sum(part.size - self._store.blobs.partial_bytes(part.digest) for part in missing)
        if not any(variant.fits for variant in shipped_variants(manifest)):
            checkpoints = {part.digest: part.size for part in missing if part.media_type in media.CHECKPOINT}
            wanted += int(VARIANT_SHARE * sum(checkpoints.values()))
        free = free_bytes(self._store.blobs.root)
        if wanted + SLACK_BYTES > free:
            raise StoreError(
                f"{self._name.short} does not fit: it takes {wanted} bytes more, layers and converted model together, "
                f"and {self._store.root} has {free} bytes free; make room and pull again"
            )

    async def _ready(self, manifest: Manifest) -> None:
        """Have a variant, from the layers or converted here."""
        if await in_thread(lambda: install_shipped(self._store, manifest)):
            self._report(Progress("using the converted model of the registry"))
        elif sources := manifest.of(*media.SOURCES):
            await ensure_variant(self._store, sources[0].digest, self._report, python=self._python)

    def _check_runnable(self, manifest: Manifest) -> None:
        variants = shipped_variants(manifest)
        if variants and not manifest.of(*media.SOURCES) and not any(variant.fits for variant in variants):
            providers = ", ".join(sorted({variant.provider for variant in variants}))
            raise TransferFailed(
                f"{self._name.short} comes without its checkpoint and converted for {providers} only; "
                "push it again with its checkpoint, or converted for this device too"
            )

    def _remove_unused(self, replaced: Iterable[str], parts: list[Layer]) -> None:
        kept = {normal_digest(part.digest) for part in parts}
        gone = [digest for digest in replaced if normal_digest(digest) not in kept]
        if gone and not self._noprune:
            self._report(Progress("removing unused layers"))
            self._store.remove_unused(gone)


def _checked(manifest: Manifest) -> Manifest:
    """The manifest, if a device can sensibly store it. Raises StoreError."""
    if len(manifest.parts) > MAX_PARTS:
        raise StoreError(f"the manifest has {len(manifest.parts)} layers, more than {MAX_PARTS}; it is refused")
    sizes: dict[str, int] = {}
    for part in manifest.parts:
        if part.size > MAX_PART_BYTES:
            raise StoreError(f"the manifest gives {part.digest} {part.size} bytes; it is refused")
        if sizes.setdefault(normal_digest(part.digest), part.size) != part.size:
            raise StoreError(f"the manifest gives {part.digest} two sizes; it is refused")
    if manifest.config.size > MAX_CONFIG_BYTES:
        raise StoreError(f"the manifest's config has {manifest.config.size} bytes, more than {MAX_CONFIG_BYTES}")
    return manifest


def _distinct(parts: Iterable[Layer]) -> list[Layer]:
    """The parts without repeated blobs; the layers in their order, the config last."""
    found = {normal_digest(part.digest): part for part in parts}
    config, *layers = found.values()
    return [*layers, config]
