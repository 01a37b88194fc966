"""POST /api/embed and its older form, POST /api/embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from hearthd.api import embedding, opening
from hearthd.api.embedding import Vectors, Wanted
from hearthd.api.exchange import Exchange
from hearthd.api.floats import vector_json
from hearthd.api.services import Services
from hearthd.api.wire import EmbeddingRequest, EmbedFigures, EmbedRequest
from hearthd.errors import BadRequest


async def embed(services: Services, exchange: Exchange) -> None:
    """A vector of length 1 for each text; without input, load the model."""
    began_ns = time.perf_counter_ns()
    request = await exchange.bind(EmbedRequest, services.config.max_body_bytes)
    texts = embedding.texts_of(request.input) if request.input != "" else None
    asked = request.model or request.name
    opened = embedding.open_model(services, asked)
    wanted = Wanted(texts or [], request.truncate, True, request.dimensions)
    load_options = opening.load_options(opened.options(request.options))
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)
    exchange.watch()
    async with services.scheduler.lease(opened.model, load_options, keep_alive_ns) as lease:
        vectors = await embedding.embedded(lease.runner, wanted)
    figures = EmbedFigures()
    if wanted.texts:
        figures = EmbedFigures(
            total_duration=time.perf_counter_ns() - began_ns,
            load_duration=lease.load_ns,
            prompt_eval_count=vectors.num_tokens,
        )
    await embedding.answer(exchange, _pieces(asked, vectors, figures))


def _pieces(model: str, vectors: Vectors, figures: EmbedFigures) -> Iterator[bytes]:
    """The response, `figures` behind the vectors."""
    opening_text = b'{"model":' + msgspec.json.encode(model) + b',"embeddings":['
    for vector in vectors:
        yield opening_text + vector_json(vector)
        opening_text = b","
    closing = msgspec.json.encode(figures)[1:]
    rest = b"]" + (b"," if closing != b"}" else b"") + closing
    yield rest if opening_text == b"," else opening_text + rest


async def embeddings(services: Services, exchange: Exchange) -> None:
    """The vector of one prompt as the model makes it; without a prompt, load the model."""
    request = await exchange.bind(EmbeddingRequest, services.config.max_body_bytes)
    asked = request.model or request.name
    if not asked:
        raise BadRequest("model is required")
    opened = embedding.open_model(services, asked)
    wanted = Wanted([request.prompt] if request.prompt else [], normalize=False)
    load_options = opening.load_options(opened.options(request.options))
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)
    exchange.watch()
    async with services.scheduler.lease(opened.model, load_options, keep_alive_ns) as lease:
        vectors = await embedding.embedded(lease.runner, wanted)
    values = b"".join(map(vector_json, vectors)) or b"[]"
    await embedding.answer(exchange, (b'{"embedding":' + values + b"}",))
