"""The endpoints of OpenAI's API under /v1/, and its form of errors."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator

import msgspec

from hearthd.api import embedding, opening
from hearthd.api.embedding import Vectors, Wanted
from hearthd.api.exchange import BARE_JSON, Exchange
from hearthd.api.floats import vector_json
from hearthd.api.services import Services
from hearthd.api.wire import OpenAIEmbeddingRequest, OpenAIError, OpenAIFailure, OpenAIUsage
from hearthd.errors import BadRequest, HearthError

PREFIX = "/v1/"
ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
FORMS: dict[str, Callable[[memoryview], bytes]] = {
    "float": vector_json,
    "base64": lambda vector: b'"' + b64encode(vector) + b'"',
}


async def fail(exchange: Exchange, error: HearthError) -> None:
    """Tell the client, before the answer has begun."""
    kind = ERROR_TYPES.get(error.status, "api_error")
    await exchange.json(OpenAIFailure(error=OpenAIError(str(error), kind)), error.status, BARE_JSON)


async def embeddings(services: Services, exchange: Exchange) -> None:
    """A vector of length 1 for each input, as numbers or as base64 of little-endian float32."""
    request = await exchange.bind(OpenAIEmbeddingRequest, services.config.max_body_bytes)
    form = FORMS.get(request.encoding_format.lower() or "float")
    if form is None:
        raise BadRequest(
            f"Invalid value for 'encoding_format' = {request.encoding_format}. Supported values: ['float', 'base64']."
        )
    texts = embedding.texts_of(request.input, ids=True)
    if not texts:
        raise BadRequest("invalid input")
    opened = embedding.open_model(services, request.model)
    load_options = opening.load_options(opened.options({}))
    exchange.watch()
    async with services.scheduler.lease(opened.model, load_options, None) as lease:
        vectors = await embedding.embedded(lease.runner, Wanted(texts, dimensions=request.dimensions))
    await embedding.answer(exchange, _pieces(request.model, vectors, form))


def _pieces(model: str, vectors: Vectors, form: Callable[[memoryview], bytes]) -> Iterator[bytes]:
    separator = b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        yield separator + b'{"object":"embedding","embedding":' + form(vector) + b',"index":%d}' % index
        separator = b","
    usage = msgspec.json.encode(OpenAIUsage(vectors.num_tokens, vectors.num_tokens))
    yield b'],"model":' + msgspec.json.encode(model) + b',"usage":' + usage + b"}"
