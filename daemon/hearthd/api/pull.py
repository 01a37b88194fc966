"""POST /api/pull."""

from __future__ import annotations

from hearthd.api import progress
from hearthd.api.exchange import Exchange
from hearthd.api.services import Services
from hearthd.api.wire import PullRequest
from hearthd.errors import BadRequest
from hearthd.store import names
from hearthd.store.names import ModelName


async def pull(services: Services, exchange: Exchange) -> None:
    """Fetch a model; progress lines, or with `stream` false the last one."""
    from hearthd.registry.pull import pull as registry_pull  # 0.5 MiB that an idle daemon does without

    request = await exchange.bind(PullRequest, services.config.max_body_bytes)
    steps = registry_pull(
        services.store,
        services.transfers,
        wanted_name(request.model or request.name),
        insecure=request.insecure,
        noprune=services.config.noprune,
    )
    await progress.send(exchange, steps, request.stream)


def wanted_name(text: str) -> ModelName:
    """The name in a request to pull or push. BadRequest where it is none, or names somebody else's machine."""
    if names.is_cloud(text):
        raise BadRequest(f"{text[:200]} runs on somebody else's machine; there is nothing to pull or push")
    return names.parse(names.split_origin(text)[0])
