"""Creating a model: from a checkpoint of this machine, from uploaded files, or from another model.

What a client sees of it is a series of Progress; the manifest is written at the end or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from hearthd.errors import BadRequest, ModelNotFound
from hearthd.registry.assembly import Assembly
from hearthd.registry.capabilities import capabilities
from hearthd.registry.checkpoint import NOT_FLOAT, Checkpoint, Checkpoints
from hearthd.registry.detect import detect
from hearthd.registry.families import Family
from hearthd.registry.image import image_config, with_info
from hearthd.registry.overlay import TEMPLATES, overlaid
from hearthd.registry.progress import Progress, Report, steps_of
from hearthd.registry.spec import CreateSpec
from hearthd.registry.uploads import Files, uploaded, uploaded_adapter
from hearthd.registry.variants import ensure_variant
from hearthd.store import manifest, media
from hearthd.store.manifest import ImageConfig, Layer, Manifest
from hearthd.store.names import ModelName
from hearthd.store.store import ModelStore, StoredModel
from hearthd.store.variant import SourceInfo
from hearthd.threads import in_thread

Pull = Callable[[ModelName], AsyncGenerator[Progress, None]]


# of the checkpoint itself: they go with it
_OF_CHECKPOINT = (*media.CHECKPOINT, media.VARIANT, media.VARIANT_FILE, media.SOURCE)


async def create(
    store: ModelStore,
    spec: CreateSpec,
    *,
    pull: Pull | None = None,
    noprune: bool = False,
    python: str = sys.executable,
) -> AsyncGenerator[Progress, None]:
    """Make the model that `spec` describes, replacing one of the same name; what comes is the progress.

    `pull` fetches a parent that is not here. Closing the iterator stops the work. After a failure nothing is left but
    what was uploaded or pulled. Raises BadRequest for what the spec asks wrongly, StoreError, ExportFailed, and what
    `pull` raises.
    """
    async with aclosing(steps_of(_Creation(store, spec, pull, noprune, python).run)) as steps:
        async for progress in steps:
            yield progress


class _Start(msgspec.Struct, frozen=True):
    """What a model is made from."""

    config: ImageConfig
    layers: list[Layer]
    family: Family | None = None  # whose chat format the checkpoint's own template writes


class _Creation:
    """One create at work."""

    def __init__(self, store: ModelStore, spec: CreateSpec, pull: Pull | None, noprune: bool, python: str) -> None:
        self._store = store
        self._spec = spec
        self._pull = pull
        self._noprune = noprune
        self._python = python
        self._report: Report
        self._assembly: Assembly
        self._checkpoints: Checkpoints
        self._adapter: tuple[str, Files] | None = None

    async def run(self, report: Report) -> None:
        """Do it all, or leave nothing behind."""
        self._report = report
        if text := self._spec.template:
            await in_thread(lambda: _check_template(text))
        self._adapter = uploaded_adapter(self._store.blobs, self._spec.adapters, self._spec.adapter_paths)
        self._store.check_writable()
        with Assembly(self._store, report) as self._assembly:
            self._checkpoints = Checkpoints(self._assembly, self._python)
            start = await self._start()
            self._warn()
            layers = await overlaid(self._assembly, self._spec, start.layers, start.family)
            old = await self._commit(start.config, layers)
        if not self._noprune:
            self._store.remove_unused(sorted(old))
        self._report(Progress("success"))

    def _warn(self) -> None:
        for line in self._spec.warnings:
            self._report(Progress(f"warning: {line}"))

    # what it starts from

    async def _start(self) -> _Start:
        spec = self._spec
        if spec.from_model is not None:
            return await self._from_model(await self._parent(spec.from_model))
        if spec.path is not None:
            return await self._from_checkpoint(await self._checkpoints.of_path(spec.path))
        if spec.files:
            files = uploaded(self._store.blobs, spec.files)
            files = msgspec.structs.replace(files, shown=spec.shown or files.shown)
            return await self._from_checkpoint(await self._checkpoints.of_upload(files))
        raise BadRequest("neither 'from' or 'files' was specified")

    async def _parent(self, name: ModelName) -> StoredModel:
        try:
            return self._store.resolve(name)
        except ModelNotFound as error:
            if self._pull is None:
                raise BadRequest(f"{error}: pull it, or create it from a checkpoint first") from None
        async with aclosing(self._pull(name)) as steps:
            async for step in steps:
                if step.status != "success":  # the create is not at its end
                    self._report(step)
        return self._store.resolve(name)

    async def _from_model(self, parent: StoredModel) -> _Start:
        self._assembly.hold(*(part.digest for part in parent.manifest.parts), *filter(None, [parent.source]))
        layers = list(parent.manifest.layers)
        if self._spec.quantize or self._adapter:
            return await self._from_changed(parent, layers)
        for layer in parent.manifest.needed[1:]:
            self._assembly.tell(layer)
        return _Start(parent.config, [_marked(layer, parent) for layer in layers])

    async def _from_changed(self, parent: StoredModel, layers: list[Layer]) -> _Start:
        models = parent.manifest.of(*media.SOURCES)
        if not models:
            raise BadRequest(NOT_FLOAT if self._adapter is None else f"{parent.name.short} came without its checkpoint")
        checkpoint = await self._changed(await self._checkpoints.of_blob(models[0].digest, parent.name.short))
        made = await self._converted(checkpoint)
        kept = [layer for layer in layers if layer.media_type not in _OF_CHECKPOINT]
        for layer in kept:
            self._assembly.tell(layer)
        facts = {"file_type": checkpoint.info.file_type, "model_format": checkpoint.info.format}
        return _Start(msgspec.structs.replace(parent.config, **facts), [*made, *kept])

    async def _from_checkpoint(self, checkpoint: Checkpoint) -> _Start:
        self._report(Progress("parsing GGUF" if checkpoint.info.format == "gguf" else "unpacking model metadata"))
        info = checkpoint.info
        family = detect(info.chat_template or "", info.bos_token, info.eos_token)
        if family is not None:
            self._report(Progress(f"using autodetected template {family.name}"))
        checkpoint = await self._checkpoints.stored(await self._changed(checkpoint))
        return _Start(image_config(checkpoint.info), await self._converted(checkpoint), family)

    async def _changed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the adapter merged into it, quantized, as the spec asks."""
        if self._adapter is not None:
            name, files = self._adapter
            checkpoint = await self._checkpoints.merged(checkpoint, files, name)
        if self._spec.quantize:
            checkpoint = await self._checkpoints.quantized(checkpoint, self._spec.quantize)
        return checkpoint

    async def _converted(self, checkpoint: Checkpoint) -> list[Layer]:
        """The checkpoint's layers, once there is a variant of it."""
        await ensure_variant(self._store, checkpoint.digest, self._report, python=self._python)
        first, *others = self._checkpoints.layers(checkpoint.digest)
        layers = [msgspec.structs.replace(first, annotations=self._spec.notes), *others]
        for layer in layers:
            self._assembly.tell(layer)
        return layers

    # the end

    async def _commit(self, config: ImageConfig, layers: list[Layer]) -> set[str]:
        """Write the manifest; digests that nobody may need any more."""
        config_layer = await self._assembly.put(media.CONFIG, manifest.encode(self._finished(config, layers)))
        made = Manifest(config=config_layer, layers=tuple(layers))
        self._report(Progress("writing manifest"))
        replaced = await in_thread(lambda: self._store.replace_manifest(self._spec.name, manifest.encode(made)))
        if replaced - {part.digest for part in made.parts} and not self._noprune:
            self._report(Progress("removing unused layers"))
        return replaced | self._assembly.new

    def _finished(self, config: ImageConfig, layers: list[Layer]) -> ImageConfig:
        """The config with what follows from the layers, and what the spec says instead."""
        spec = self._spec
        source = self._source(layers)
        if source is not None and (spec.template is not None or not config.capabilities):
            template = self._assembly.text(layers, *TEMPLATES)
            config = msgspec.structs.replace(config, capabilities=capabilities(source, template))
        kept = {"renderer": spec.renderer, "parser": spec.parser, "requires": spec.requires}
        config = msgspec.structs.replace(config, **{key: value for key, value in kept.items() if value})
        return with_info(config, spec.info)

    def _source(self, layers: list[Layer]) -> SourceInfo | None:
        models = [layer.digest for layer in layers if layer.media_type in media.SOURCES]
        return self._store.source_info(models[0]) if models else None


def _check_template(text: str) -> None:
    """BadRequest saying what is wrong with the template, and in which line, if something is."""
    from hearthd.prompt.gotemplate.errors import TemplateError  # an idle daemon has no use for them
    from hearthd.prompt.gotemplate.parser import parse

    try:
        parse(text)
    except TemplateError as error:
        raise BadRequest(f"template error: {error}") from None


def _marked(layer: Layer, parent: StoredModel) -> Layer:
    """A checkpoint's layer says where it comes from: a registry may have it there."""
    return msgspec.structs.replace(layer, from_=parent.name.short) if layer.media_type in media.CHECKPOINT else layer
