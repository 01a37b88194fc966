"""The models that are here: list, loaded ones, one in detail, copy, delete."""

from __future__ import annotations

import logging
from typing import Any

from hearthd.api import stamp
from hearthd.api.abilities import abilities
from hearthd.api.exchange import Exchange
from hearthd.api.opening import open_model
from hearthd.api.services import Services
from hearthd.api.wire import (
    CopyRequest,
    DeleteRequest,
    ListModel,
    ListResponse,
    Message,
    ModelDetails,
    ProcessModel,
    ProcessResponse,
    ShowRequest,
    ShowResponse,
    Tensor,
)
from hearthd.errors import BadRequest, ExportFailed, InvalidName, ModelNotFound, NotFound, StoreError
from hearthd.modelfile import Command, print_modelfile
from hearthd.registry.exporter import inspect
from hearthd.registry.variants import place_of
from hearthd.store import names
from hearthd.store.contents import ModelContents
from hearthd.store.names import ModelName
from hearthd.store.store import ModelStore, StoredModel
from hearthd.store.variant import SourceInfo

log = logging.getLogger(__name__)

PLAIN_TEMPLATE = "{{ .Prompt }}"
_HIDDEN_METADATA = ("general.name", "tokenizer.chat_template")


async def tags(services: Services, exchange: Exchange) -> None:
    """Every model, the one changed last first."""
    await exchange.json(ListResponse(models=[_listed(services.store, model) for model in services.store.models()]))


async def ps(services: Services, exchange: Exchange) -> None:
    """The loaded models, the one that stays longest first."""
    loaded = services.scheduler.loaded()
    models = [
        ProcessModel(
            name=entry.model.name.short,
            model=entry.model.name.short,
            size=entry.size_bytes,
            digest=entry.model.digest,
            details=_details(entry.model),
            expires_at=stamp.local_ns(entry.expires_at_ns),
            size_vram=entry.size_vram_bytes,
            context_length=entry.num_ctx,
        )
        for entry in loaded
    ]
    await exchange.json(ProcessResponse(models=models))


async def show(services: Services, exchange: Exchange) -> None:
    """All that is known of one model."""
    request = await exchange.bind(ShowRequest, services.config.max_body_bytes)
    asked = request.model or request.name
    if not asked:
        raise BadRequest("model is required")
    try:
        opened = open_model(services, asked)
    except ModelNotFound:
        raise ModelNotFound(names.parse(names.split_origin(asked)[0]).short) from None
    source = await _source(services, opened.contents, request.verbose)
    can = abilities(services.store, opened.model, source)
    await exchange.json(_shown(opened.model, opened.contents, source, request.system, can))


async def copy(services: Services, exchange: Exchange) -> None:
    """A second name for a model."""
    request = await exchange.bind(CopyRequest, services.config.max_body_bytes)
    source = _name(request.source, f'source "{request.source}" is invalid')
    destination = _name(request.destination, f'destination "{request.destination}" is invalid')
    try:
        replaced = services.store.copy(source, destination)
    except ModelNotFound:
        raise NotFound(f'model "{request.source}" not found') from None
    if not services.config.noprune:
        services.store.remove_unused(sorted(replaced))
    await exchange.empty()


async def delete(services: Services, exchange: Exchange) -> None:
    """Remove a model's name, and what only it used. A loaded copy goes on until it expires."""
    request = await exchange.bind(DeleteRequest, services.config.max_body_bytes)
    asked = request.model or request.name
    if not asked:
        raise BadRequest("model is required")
    services.store.delete(_name(asked, f'name "{asked}" is invalid'), asked)
    await exchange.empty()


def _name(text: str, refusal: str) -> ModelName:
    try:
        return names.parse(text)
    except InvalidName:
        raise BadRequest(refusal) from None


def _listed(store: ModelStore, model: StoredModel) -> ListModel:
    return ListModel(
        name=model.name.short,
        model=model.name.short,
        modified_at=stamp.local(model.modified_at),
        size=model.size,
        digest=model.digest,
        details=_details(model),
        capabilities=list(abilities(store, model)),
    )


def _details(model: StoredModel) -> ModelDetails:
    config = model.config
    return ModelDetails(
        parent_model="",
        format=config.model_format,
        family=config.model_family,
        families=list(config.model_families),
        parameter_size=config.model_type,
        quantization_level=config.file_type,
        context_length=config.context_length,
        embedding_length=config.embedding_length,
    )


async def _source(services: Services, contents: ModelContents, verbose: bool) -> SourceInfo | None:
    """What the checkpoint says of itself; read from it where it was not converted, or where all is wanted.

    None where it cannot be read: the rest is shown all the same.
    """
    digest = contents.model_digest
    known = services.store.source_info(digest) if digest else None
    if not digest or not services.store.blobs.has(digest) or (known and not verbose):
        return known
    try:
        with place_of(services.store, digest)() as path:
            return await inspect(path, verbose)
    except (ExportFailed, StoreError) as error:
        log.warning("%s", error)
        return known


def _shown(
    model: StoredModel, contents: ModelContents, source: SourceInfo | None, system: str, can: tuple[str, ...]
) -> ShowResponse:
    template = contents.template or (source and source.chat_template) or PLAIN_TEMPLATE
    return ShowResponse(
        license="\n".join(contents.licenses),
        modelfile=_modelfile(model, contents, system or contents.system),
        parameters=_parameters(contents.params),
        template=template,
        system=system or contents.system,
        details=_details(model),
        messages=[Message(message.role, message.content) for message in contents.messages],
        model_info=_model_info(source) if source else {},
        tensors=[Tensor(name=t.name, type=t.type, shape=t.shape) for t in source.tensors] if source else [],
        capabilities=list(can),
        modified_at=stamp.local(model.modified_at),
        requires=model.config.requires,
    )


def _model_info(source: SourceInfo) -> dict[str, Any]:
    info = {key: value for key, value in source.metadata.items() if key not in _HIDDEN_METADATA}
    info["general.architecture"] = source.architecture
    info["general.parameter_count"] = source.parameter_count
    return info


def _parameters(params: dict[str, Any]) -> str:
    """One line a value, in Go's notation: `stop                           "<|im_end|>"`."""
    return "\n".join(f"{key:<30} {_go_value(value)}" for key, value in _flat(params))


def _flat(params: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (key, member) for key, value in params.items() for member in (value if isinstance(value, list) else [value])
    ]


def _go_value(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    return _plain_value(value)


def _plain_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _modelfile(model: StoredModel, contents: ModelContents, system: str) -> str:
    """A Modelfile that makes the model again. The checkpoint's own template is left to the checkpoint."""
    commands = [Command("model", str(contents.model_path or model.name.short))]
    commands += [Command("adapter", str(path)) for path in contents.adapters]
    commands += [Command("model", str(path)) for path in contents.projectors]
    commands += [Command("template", contents.template)] if contents.template else []
    commands += [Command("system", system)] if system else []
    commands += [Command("renderer", model.config.renderer)] if model.config.renderer else []
    commands += [Command("parser", model.config.parser)] if model.config.parser else []
    commands += [Command(key, _plain_value(value)) for key, value in _flat(contents.params)]
    commands += [Command("license", text) for text in contents.licenses]
    commands += [Command("message", f"{message.role}: {message.content}") for message in contents.messages]
    return (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {model.name.short}\n\n"
        f"{print_modelfile(commands)}"
    )
