"""Pushing a model: its layers, converted variants among them where that is asked for, and then its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from hearthd.errors import BadRequest, InvalidName, ModelNotFound
from hearthd.registry.progress import Progress, Report, steps_of
from hearthd.registry.remote import repository_of
from hearthd.registry.shipping import Parcel, pack_variants, without_variants
from hearthd.registry.transfers import Transfers
from hearthd.registry.variants import ensure_variant
from hearthd.store import manifest, media, names
from hearthd.store.blobs import digest_hex, normal_digest
from hearthd.store.manifest import Layer, Manifest
from hearthd.store.names import ModelName
from hearthd.store.store import ModelStore, StoredModel


async def push(
    store: ModelStore,
    transfers: Transfers,
    name: ModelName,
    *,
    insecure: bool = False,
    with_variants: bool = False,
    with_source: bool = True,
) -> AsyncGenerator[Progress, None]:
    """Send the model to the registry that its name leads to; what comes is the progress.

    `with_variants`: what was converted from it goes along, as further layers. Without `with_source` the
    checkpoint stays behind, and the variants go alone. Closing the iterator stops the work.
    Raises BadRequest for what cannot be pushed so, ModelNotFound, TransferFailed, StoreError.
    """
    repository_of(name, insecure)  # refuses the name before anything is said
    work = _Push(store, transfers, name, insecure, with_variants, with_source)
    async with aclosing(steps_of(work.run)) as steps:
        async for progress in steps:
            yield progress


class _Push:
    """One push at work."""

    def __init__(
        self,
        store: ModelStore,
        transfers: Transfers,
        name: ModelName,
        insecure: bool,
        with_variants: bool,
        with_source: bool,
    ) -> None:
        self._store = store
        self._transfers = transfers
        self._name = name
        self._repository = repository_of(name, insecure)
        self._with_variants = with_variants
        self._with_source = with_source
        self._report: Report

    async def run(self, report: Report) -> None:
        """Do it all."""
        self._report = report
        report(Progress("retrieving manifest"))
        model = self._model()
        with self._store.holding(part.digest for part in model.manifest.parts):
            parcels = await self._parcels(model)
            data = self._manifest(model, parcels)
            for parcel in _distinct([*parcels, self._stored(model.manifest.config)]):
                await self._send(parcel)
            report(Progress("pushing manifest"))
            await self._transfers.send_manifest(self._repository, self._name.tag, data, media.MANIFEST)
        report(Progress("success"))

    def _model(self) -> StoredModel:
        try:
            return self._store.resolve(self._name)
        except ModelNotFound:
            self._report(Progress("couldn't retrieve manifest"))
            raise

    async def _parcels(self, model: StoredModel) -> list[Parcel]:
        """The layers to be sent and where they are, the config excepted."""
        kept = model.manifest.layers
        variants: list[Parcel] = []
        if self._with_variants:
            variants = await self._variants(model)
            kept = without_variants(model.manifest)
        if not self._with_source:
            kept = tuple(layer for layer in kept if layer.media_type not in media.CHECKPOINT)
        here = [layer for layer in kept if layer.media_type not in manifest.OPTIONAL or self._has(layer)]
        return [*(self._stored(layer) for layer in here), *variants]

    async def _variants(self, model: StoredModel) -> list[Parcel]:
        if model.source is None:
            raise BadRequest(f"{model.name.short} holds no checkpoint, so nothing can be converted from it")
        if model.manifest.of(*media.SOURCES):
            await ensure_variant(self._store, model.source, self._report)
        return await pack_variants(self._store, model.source, self._report)

    def _manifest(self, model: StoredModel, parcels: list[Parcel]) -> bytes:
        """The manifest to be sent: byte for byte the stored one where the layers are its own."""
        layers = tuple(parcel.layer for parcel in parcels)
        if layers == model.manifest.layers:
            return self._store.manifest_bytes(model.name)
        return manifest.encode(Manifest(config=model.manifest.config, layers=layers))

    async def _send(self, parcel: Parcel) -> None:
        digest, size = normal_digest(parcel.layer.digest), parcel.layer.size
        self._report_sent(digest, size, 0)
        moves = self._transfers.send(
            self._repository,
            digest,
            size,
            parcel.path,
            state=self._state(digest),
            mount_from=self._mount_from(parcel.layer),
        )
        async with aclosing(moves):
            async for moved in moves:
                if 0 < moved.completed < size:
                    self._report_sent(digest, size, moved.completed)
        self._report_sent(digest, size, size)

    def _report_sent(self, digest: str, size: int, completed: int) -> None:
        self._report(Progress(f"pushing {digest[7:19]}", digest, size, completed))

    def _state(self, digest: str) -> Path:
        """Where the state of this upload is kept, one for each place that it can go to."""
        place = hashlib.sha256(f"{self._repository.host}/{self._repository.path}".encode()).hexdigest()[:16]
        directory = self._store.blobs.root if self._store.writable else self._store.variants_root
        return directory / f"sha256-{digest_hex(digest)}-upload-{place}"

    def _mount_from(self, layer: Layer) -> str:
        """The repository of the same registry that the layer was taken from; "" where it was not."""
        try:
            parent = names.parse(layer.from_)
        except InvalidName:
            return ""
        own = (self._name.namespace, self._name.model)
        if parent.host != self._name.host or (parent.namespace, parent.model) == own:
            return ""
        return f"{parent.namespace}/{parent.model}"

    def _has(self, layer: Layer) -> bool:
        return self._store.blobs.has(layer.digest)

    def _stored(self, layer: Layer) -> Parcel:
        return Parcel(layer, self._store.blobs.path(layer.digest))


def _distinct(parcels: list[Parcel]) -> list[Parcel]:
    """The parcels without repeated blobs."""
    return list({normal_digest(parcel.layer.digest): parcel for parcel in parcels}.values())
