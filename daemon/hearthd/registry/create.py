"""Creating a model: from a GGUF file of this machine, from an uploaded blob, or from another model.

What a client sees of it is a series of Progress; the manifest is written at the end or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from hearthd.errors import BadRequest, Canceled, ExportFailed, ModelNotFound, StoreError
from hearthd.registry.capabilities import capabilities, parameter_size
from hearthd.registry.exporter import inspect
from hearthd.registry.progress import Progress, Report
from hearthd.registry.spec import CreateSpec
from hearthd.registry.variants import ensure_variant
from hearthd.store import manifest, media
from hearthd.store.blobs import normal_digest
from hearthd.store.contents import MAX_TEXT_BYTES
from hearthd.store.manifest import ImageConfig, Layer, Manifest
from hearthd.store.names import ModelName
from hearthd.store.store import ModelStore, StoredModel
from hearthd.store.variant import SourceInfo

T = TypeVar("T")

GGUF_MAGIC = b"GGUF"
COPY_STEP_BYTES = 32 << 20  # between two progress lines of a copy


async def create(
    store: ModelStore, spec: CreateSpec, *, noprune: bool = False, python: str = sys.executable
) -> AsyncGenerator[Progress, None]:
    """Make the model that `spec` describes, replacing one of the same name; what comes is the progress.

    Closing the iterator stops the work. After a failure nothing is left but what was uploaded before.
    Raises BadRequest for what the spec asks wrongly, StoreError, ExportFailed.
    """
    queue: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.create_task(_Creation(store, spec, queue.put_nowait, noprune, python).run())
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (progress := await queue.get()) is not None:
            yield progress
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, whether or not it was raised above


class _Creation:
    """One create at work."""

    def __init__(self, store: ModelStore, spec: CreateSpec, report: Report, noprune: bool, python: str) -> None:
        self._store = store
        self._spec = spec
        self._report = report
        self._noprune = noprune
        self._python = python
        self._new_digests: list[str] = []  # to be given back after a failure
        self._held = ExitStack()

    async def run(self) -> None:
        """Do it all, or leave nothing behind."""
        _refuse_what_comes_later(self._spec)
        try:
            with self._held:
                config, layers = await self._base()
                layers = await self._overlay(layers)
                replaced = await self._commit(config, layers)
        except BaseException:
            self._store.remove_unused(self._new_digests)
            raise
        if not self._noprune:
            self._store.remove_unused(replaced)
        self._report(Progress("success"))

    async def _base(self) -> tuple[ImageConfig, list[Layer]]:
        if self._spec.from_model is not None:
            return self._inherited()
        if self._spec.path is not None:
            return await self._from_path(self._spec.path)
        if self._spec.files:
            return await self._from_upload()
        raise BadRequest("neither 'from' or 'files' was specified")

    # where the checkpoint comes from

    def _inherited(self) -> tuple[ImageConfig, list[Layer]]:
        parent = self._parent()
        for part in parent.manifest.parts:
            self._hold(part.digest)
        layers = [
            msgspec.structs.replace(layer, from_=parent.name.short) if layer.media_type == media.MODEL else layer
            for layer in parent.manifest.layers
        ]
        for layer in layers:
            self._report(Progress(f"using existing layer {layer.digest}"))
        return parent.config, layers

    def _parent(self) -> StoredModel:
        assert self._spec.from_model is not None
        try:
            return self._store.resolve(self._spec.from_model)
        except ModelNotFound as error:
            raise BadRequest(
                f"{error}: pulling models comes with a later version; create it from a GGUF file first"
            ) from None

    async def _from_path(self, path: Path) -> tuple[ImageConfig, list[Layer]]:
        await self._inspect(path, str(path))  # before gigabytes are copied
        digest = await self._import(path)
        return await self._from_blob(digest, str(path))

    async def _from_upload(self) -> tuple[ImageConfig, list[Layer]]:
        name, digest = self._uploaded()
        self._hold(digest)
        return await self._from_blob(digest, name)

    async def _from_blob(self, digest: str, given: str) -> tuple[ImageConfig, list[Layer]]:
        """`given`: what the user calls the file."""
        info = await self._inspect(self._store.blobs.path(digest), given)
        self._report(Progress("parsing GGUF"))
        await ensure_variant(self._store, digest, self._report, python=self._python)
        self._report_layer(digest)
        return _config(info), [self._layer(media.MODEL, digest)]

    def _uploaded(self) -> tuple[str, str]:
        """Name and digest of the one uploaded GGUF file."""
        for name, digest in self._spec.files.items():
            _check_file(name, digest)
        if len(self._spec.files) > 1 or any(name.endswith(".safetensors") for name in self._spec.files):
            raise BadRequest("only a single GGUF file is supported yet; safetensors and split models come later")
        name, digest = next((name, normal_digest(digest)) for name, digest in self._spec.files.items())
        if not self._store.blobs.has(digest):
            raise BadRequest(f'blob "{digest}" of {name} is not here; upload it to /api/blobs/{digest} first')
        with self._store.blobs.open(digest) as file:
            magic = file.read(len(GGUF_MAGIC))
        if magic != GGUF_MAGIC:
            raise BadRequest(f"unknown type: {name} begins with {magic!r}, not with {GGUF_MAGIC!r} as a GGUF file does")
        return name, digest

    async def _inspect(self, path: Path, given: str) -> SourceInfo:
        try:
            return await inspect(path, python=self._python)
        except ExportFailed as error:
            raise BadRequest(str(error).replace(str(path), given)) from error

    async def _import(self, path: Path) -> str:
        """Copy the file into the store; its digest. Cancelled, the copy ends within a chunk."""
        blobs = self._store.blobs
        before = set(blobs.digests())
        copy = _Copy(path, self._report)
        future = asyncio.get_running_loop().run_in_executor(None, blobs.import_file, path, copy.on_progress)
        try:
            digest = await asyncio.shield(future)
        except asyncio.CancelledError:
            copy.stopped = True
            await asyncio.wait([future])
            if future.exception() is None:
                self._note_new({future.result()} - before)
            raise
        self._hold(digest)
        self._note_new({digest} - before)
        return digest

    # what is laid over it

    async def _overlay(self, layers: list[Layer]) -> list[Layer]:
        spec = self._spec
        if spec.template is not None:
            layers = await self._replaced(layers, (media.TEMPLATE, media.PROMPT), spec.template.encode())
        if spec.system is not None:
            layers = await self._replaced(layers, (media.SYSTEM,), spec.system.encode())
        if spec.parameters:
            params = self._params(layers) | spec.parameters
            layers = await self._replaced(layers, (media.PARAMS,), msgspec.json.encode(params))
        if spec.messages:
            layers = await self._replaced(layers, (media.MESSAGES,), msgspec.json.encode(spec.messages))
        for text in spec.licenses:
            layers = _without_twins([*layers, await self._laid(media.LICENSE, text.encode())])
        return layers

    def _params(self, layers: list[Layer]) -> dict[str, Any]:
        text = self._text(layers, media.PARAMS)
        try:
            return msgspec.json.decode(text or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise StoreError(f"the parameters of {self._spec.from_model} are damaged: {error}") from error

    async def _replaced(self, layers: list[Layer], media_types: tuple[str, ...], data: bytes) -> list[Layer]:
        """`layers` with `data` as the only layer of these types, or with none of them where `data` is empty."""
        kept = [layer for layer in layers if layer.media_type not in media_types]
        return [*kept, await self._laid(media_types[0], data)] if data else kept

    async def _laid(self, media_type: str, data: bytes) -> Layer:
        layer = await self._put(media_type, data)
        self._report_layer(layer.digest)
        return layer

    async def _put(self, media_type: str, data: bytes) -> Layer:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self._hold(digest)
        if not self._store.blobs.has(digest):
            self._note_new({digest})
            await _in_thread(lambda: self._store.blobs.put(data))
        return self._layer(media_type, digest)

    def _layer(self, media_type: str, digest: str) -> Layer:
        return Layer(media_type, digest, self._store.blobs.size(digest))

    def _hold(self, digest: str) -> None:
        self._held.enter_context(self._store.holding([digest]))

    def _note_new(self, digests: Iterable[str]) -> None:
        self._new_digests += digests

    def _report_layer(self, digest: str) -> None:
        origin = "creating new" if digest in self._new_digests else "using existing"
        self._report(Progress(f"{origin} layer {digest}"))

    # the end

    async def _commit(self, config: ImageConfig, layers: list[Layer]) -> list[str]:
        """Write the manifest; the digests of the model that it replaces."""
        config = self._finished(config, layers)
        config_layer = await self._put(media.CONFIG, manifest.encode(config))
        data = manifest.encode(Manifest(config=config_layer, layers=tuple(layers)))
        name = self._store.spelling(self._spec.name)
        replaced = self._digests_of(name)
        self._report(Progress("writing manifest"))
        await _in_thread(lambda: self._store.write_manifest(name, data))
        return replaced

    def _finished(self, config: ImageConfig, layers: list[Layer]) -> ImageConfig:
        """The config with what follows from the layers."""
        models = [layer.digest for layer in layers if layer.media_type == media.MODEL]
        source = self._store.source_info(models[0]) if models else None
        if source is not None:
            config = msgspec.structs.replace(
                config, capabilities=capabilities(source, self._text(layers, media.TEMPLATE))
            )
        return msgspec.structs.replace(config, requires=self._spec.requires or config.requires)

    def _text(self, layers: list[Layer], media_type: str) -> str:
        found = [layer.digest for layer in layers if layer.media_type == media_type]
        return self._store.blobs.read(found[-1], MAX_TEXT_BYTES).decode("utf-8", "replace") if found else ""

    def _digests_of(self, name: ModelName) -> list[str]:
        """Digests of the model that is to be replaced; none where there is none, or it is damaged."""
        try:
            return [part.digest for part in self._store.resolve(name).manifest.parts]
        except (ModelNotFound, StoreError):
            return []


class _Copy:
    """Progress of one copy, told from its thread to the event loop."""

    def __init__(self, path: Path, report: Report) -> None:
        self._status = f"copying {path.name}"
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._told_bytes = 0
        self.stopped = False

    def on_progress(self, done: int, total: int) -> None:
        """Called in the copying thread. Raises Canceled once stopped."""
        if self.stopped:
            raise Canceled("the copy was canceled")
        if done == total or done - self._told_bytes >= COPY_STEP_BYTES:
            self._told_bytes = done
            self._loop.call_soon_threadsafe(self._report, Progress(self._status, total=total, completed=done))


def _refuse_what_comes_later(spec: CreateSpec) -> None:
    if spec.quantize:
        raise BadRequest("quantize is not supported yet; it comes with a later version")
    if spec.adapters:
        raise BadRequest("adapters are not supported yet; they come with a later version")


def _check_file(name: str, digest: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadRequest("file path must be relative")
    normal_digest(digest)  # raises InvalidDigest


def _config(source: SourceInfo) -> ImageConfig:
    return ImageConfig(
        model_format=source.format,
        model_family=source.architecture,
        model_families=(source.architecture,),
        model_type=parameter_size(source.parameter_count),
        file_type=source.file_type,
        architecture="amd64",
        os="linux",
        context_length=source.context_length,
        embedding_length=source.embedding_length,
        capabilities=capabilities(source),
    )


def _without_twins(layers: list[Layer]) -> list[Layer]:
    """`layers` without a second one of the same type and digest."""
    return list({(layer.media_type, layer.digest): layer for layer in layers}.values())


async def _in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, done outside the event loop; cancelled, it is waited for all the same."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen; the cancellation says enough
        raise
