"""POST /api/create: the Modelfile form and the field-by-field form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from hearthd import modelfile
from hearthd.api import progress
from hearthd.api.exchange import Exchange
from hearthd.api.services import Services
from hearthd.api.wire import CreateRequest, MessageInput
from hearthd.errors import BadRequest
from hearthd.registry.image import check_info
from hearthd.registry.progress import Progress
from hearthd.registry.spec import CreateSpec, check_parameters, check_requires, parent_name, spec_from_modelfile
from hearthd.store import names
from hearthd.store.contents import Message
from hearthd.store.names import ModelName

MAX_MODELFILE_BYTES = 16 << 20

# what a request may say and this server cannot do
_REFUSED = {
    "draft_files": "draft models are not supported yet; they come with a later version",
    "draft_quantize": "draft models are not supported yet; they come with a later version",
    "remote_host": "remote_host: this server runs its models itself and passes no request on",
}


async def create(services: Services, exchange: Exchange) -> None:
    """Make a model; progress lines, or with `stream` false the last one."""
    from hearthd.registry.create import create as registry_create  # memory that an idle daemon does without
    from hearthd.registry.pull import pull as registry_pull

    request = await exchange.bind(CreateRequest, services.config.max_body_bytes)
    spec = await spec_of(request)

    def pull(name: ModelName) -> AsyncGenerator[Progress, None]:
        return registry_pull(services.store, services.transfers, name, noprune=services.config.noprune)

    steps = registry_create(services.store, spec, pull=pull, noprune=services.config.noprune)
    await progress.send(exchange, steps, request.stream)


async def spec_of(request: CreateRequest) -> CreateSpec:
    """What the request asks for. BadRequest where it asks wrongly."""
    name = names.parse(request.model or request.name)
    for field, refusal in _REFUSED.items():
        if getattr(request, field):
            raise BadRequest(refusal)
    if request.modelfile or request.path:
        return await _from_modelfile(name, request)
    return _from_fields(name, request)


async def _from_modelfile(name: ModelName, request: CreateRequest) -> CreateSpec:
    text: str | bytes = request.modelfile
    base = Path(request.path).parent if request.path else None
    if not text:
        text = await asyncio.to_thread(_read, Path(request.path))
    quantize = request.quantize or request.quantization
    return spec_from_modelfile(name, modelfile.parse(text), base, quantize)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise BadRequest(f"error reading modelfile: {path} is not a file of the machine that the daemon runs on")
        with path.open("rb") as file:
            text = file.read(MAX_MODELFILE_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"error reading modelfile: {error.strerror}") from None
    if len(text) > MAX_MODELFILE_BYTES:
        raise BadRequest(f"error reading modelfile: {path} exceeds {MAX_MODELFILE_BYTES} bytes")
    return text


def _from_fields(name: ModelName, request: CreateRequest) -> CreateSpec:
    if not request.from_ and not request.files:
        raise BadRequest("neither 'from' or 'files' was specified")
    licenses = [request.license] if isinstance(request.license, str) else request.license
    return CreateSpec(
        name=name,
        from_model=parent_name(request.from_) if request.from_ else None,
        files=request.files,
        adapters=request.adapters,
        template=request.template or None,
        system=request.system or None,
        parameters=check_parameters(request.parameters),
        licenses=tuple(text for text in licenses if text),
        messages=tuple(map(_message, request.messages)),
        requires=check_requires(request.requires),
        renderer=request.renderer,
        parser=request.parser,
        info=check_info(request.info),
        quantize=request.quantize or request.quantization,
    )


def _message(message: MessageInput) -> Message:
    if message.images or message.tool_calls:
        raise BadRequest("messages that precede every conversation can hold text only, no images and no tool calls")
    return Message(message.role.lower(), message.content)
