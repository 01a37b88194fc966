"""POST /api/push."""

from __future__ import annotations

from hearthd.api import progress
from hearthd.api.exchange import Exchange
from hearthd.api.pull import wanted_name
from hearthd.api.services import Services
from hearthd.api.wire import PushRequest
from hearthd.errors import BadRequest


async def push(services: Services, exchange: Exchange) -> None:
    """Send a model to its registry; progress lines, or with `stream` false the last one."""
    from hearthd.registry.push import push as registry_push

    request = await exchange.bind(PushRequest, services.config.max_body_bytes)
    if not (request.model or request.name):
        raise BadRequest("model is required")
    steps = registry_push(
        services.store,
        services.transfers,
        wanted_name(request.model or request.name),
        insecure=request.insecure,
        with_variants=request.variants or not request.source,
        with_source=request.source,
    )
    await progress.send(exchange, steps, request.stream)
