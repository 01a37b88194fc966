"""POST /api/create: the Modelfile form and the field-by-field form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from hearthd import modelfile
from hearthd.api.exchange import BARE_JSON, Exchange
from hearthd.api.ndjson import Lines
from hearthd.api.services import Services
from hearthd.api.wire import CreateRequest, ProgressResponse
from hearthd.errors import BadRequest, HearthError
from hearthd.registry import create as registry
from hearthd.registry.progress import Progress
from hearthd.registry.spec import CreateSpec, check_parameters, spec_from_modelfile
from hearthd.store import names
from hearthd.store.contents import Message
from hearthd.store.names import ModelName

MAX_MODELFILE_BYTES = 16 << 20

# fields of other servers' models, refused rather than dropped
_LATER = ("draft_files", "renderer", "parser", "remote_host")


async def create(services: Services, exchange: Exchange) -> None:
    """Make a model; progress lines, or with `stream` false the last one."""
    request = await exchange.bind(CreateRequest, services.config.max_body_bytes)
    spec = await spec_of(request)
    exchange.watch()
    steps = registry.create(services.store, spec, noprune=services.config.noprune)
    async with aclosing(steps):
        await (_stream(exchange, steps) if request.stream else _last(exchange, steps))


async def spec_of(request: CreateRequest) -> CreateSpec:
    """What the request asks for. BadRequest where it asks wrongly."""
    name = names.parse(request.model or request.name)
    for field in _LATER:
        if getattr(request, field):
            raise BadRequest(f"{field} is not supported yet; it comes with a later version")
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
        from_model=names.parse(names.split_origin(request.from_)[0]) if request.from_ else None,
        files=request.files,
        adapters=request.adapters,
        template=request.template or None,
        system=request.system or None,
        parameters=check_parameters(request.parameters),
        licenses=tuple(text for text in licenses if text),
        messages=tuple(Message(message.role.lower(), message.content) for message in request.messages),
        quantize=request.quantize or request.quantization,
    )


async def _stream(exchange: Exchange, steps: AsyncIterator[Progress]) -> None:
    lines = Lines(exchange)
    last = ProgressResponse(status="success")
    async for step in steps:
        if step.status == last.status:
            break
        await lines.send(_line(step))
    await lines.end(last)


async def _last(exchange: Exchange, steps: AsyncIterator[Progress]) -> None:
    last: ProgressResponse | None = None
    async for step in steps:
        last = _line(step)
    if last is None:
        raise HearthError("unexpected end of progress response")
    await exchange.json(last, content_type=BARE_JSON)


def _line(step: Progress) -> ProgressResponse:
    return ProgressResponse(status=step.status, digest=step.digest, total=step.total, completed=step.completed)
