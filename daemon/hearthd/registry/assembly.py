"""The blobs of a model in the making: held until its manifest is written, given back where it never is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType

from hearthd.registry.progress import Progress, Report
from hearthd.store.contents import MAX_TEXT_BYTES
from hearthd.store.manifest import Layer
from hearthd.store.store import ModelStore
from hearthd.threads import in_thread


class Assembly:
    """Leave its `with` block by an exception, and the blobs that it brought are removed, unless others use them."""

    def __init__(self, store: ModelStore, report: Report) -> None:
        self.store = store
        self.report = report
        self._held = ExitStack()
        self._new: list[str] = []  # digests that were not here before

    def __enter__(self) -> Assembly:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        if kind is not None:
            self.store.remove_unused(self._new)

    def hold(self, *digests: str) -> None:
        """Keep these blobs and their variants from being removed as unused."""
        self._held.enter_context(self.store.holding(digests))

    def note_new(self, digests: Iterable[str]) -> None:
        """These blobs were brought in for this model."""
        self._new += digests

    @property
    def new(self) -> set[str]:
        """Digests of what was brought in for this model."""
        return set(self._new)

    def layer(self, media_type: str, digest: str) -> Layer:
        """The layer of a blob that is here. Raises StoreError where it is missing."""
        return Layer(media_type, digest, self.store.blobs.size(digest))

    async def put(self, media_type: str, data: bytes) -> Layer:
        """A layer of its own for `data`."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.hold(digest)
        if not self.store.blobs.has(digest):
            self.note_new([digest])
            await in_thread(lambda: self.store.blobs.put(data))
        return self.layer(media_type, digest)

    def tell(self, layer: Layer) -> None:
        """Report whether the layer is new."""
        origin = "creating new" if layer.digest in self._new else "using existing"
        self.report(Progress(f"{origin} layer {layer.digest}"))

    def text(self, layers: Iterable[Layer], *media_types: str) -> str:
        """What the last layer of these types says; "" where there is none. Raises StoreError where it is damaged."""
        found = [layer.digest for layer in layers if layer.media_type in media_types]
        return self.store.blobs.read(found[-1], MAX_TEXT_BYTES).decode("utf-8", "replace") if found else ""
