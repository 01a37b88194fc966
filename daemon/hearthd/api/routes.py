"""The table of endpoints, and the ASGI application that serves it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from hearthd.api import about, blobs, chat, create, distribution, embed, generate, models, openai, pull, push
from hearthd.api.exchange import Event, Exchange, Receive, Send
from hearthd.api.guard import Guard
from hearthd.api.services import Services
from hearthd.api.wire import Failure
from hearthd.errors import HearthError, Overloaded
from hearthd.log import fields, request_id

log = logging.getLogger(__name__)

EXCHANGE = "hearth.exchange"  # keys of the ASGI scope
SERVICES = "hearth.services"

MAX_LOGGED_CHARS = 200  # of a path

Handler = Callable[[Services, Exchange], Awaitable[None]]


class Endpoint:
    """A handler as the ASGI application that starlette's routes expect; a bound function would be wrapped in theirs."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Hand the exchange over, with what the path left open."""
        exchange: Exchange = scope[EXCHANGE]
        exchange.tail = next(iter(scope["path_params"].values()), "")
        await self._handler(scope[SERVICES], exchange)


def route(methods: tuple[str, ...], path: str, handler: Handler) -> Route:
    """One endpoint. The segments that its path leaves open are the scope's path_params, the first one the tail."""
    return Route(path, Endpoint(handler), methods=methods)


ROUTES = (
    route(("GET", "HEAD"), "/", about.root),
    route(("GET", "HEAD"), "/api/version", about.version),
    route(("GET",), "/api/status", about.status),
    route(("GET", "HEAD"), "/api/tags", models.tags),
    route(("GET",), "/api/ps", models.ps),
    route(("POST",), "/api/show", models.show),
    route(("POST",), "/api/copy", models.copy),
    route(("DELETE",), "/api/delete", models.delete),
    route(("POST",), "/api/generate", generate.generate),
    route(("POST",), "/api/chat", chat.chat),
    route(("POST",), "/api/create", create.create),
    route(("GET", "HEAD"), "/api/blobs/{digest}", blobs.check),
    route(("POST",), "/api/blobs/{digest}", blobs.upload),
    route(("POST",), "/api/pull", pull.pull),
    route(("POST",), "/api/push", push.push),
    route(("POST",), "/api/embed", embed.embed),
    route(("POST",), "/api/embeddings", embed.embeddings),
    route(("POST",), "/v1/embeddings", openai.embeddings),
    route(("GET", "HEAD"), "/v2/", distribution.base),
    route(("GET", "HEAD"), "/v2/_catalog", distribution.catalog),
    route(("GET", "HEAD"), "/v2/{namespace}/{model}/tags/list", distribution.tags),
    route(("GET", "HEAD"), "/v2/{namespace}/{model}/manifests/{reference}", distribution.manifest),
    route(("GET", "HEAD"), "/v2/{namespace}/{model}/blobs/{digest}", distribution.blob),
)


class Api:
    """The ASGI application."""

    def __init__(self, services: Services, guard: Guard) -> None:
        self.guard = guard  # a reload puts another here
        self._services = services
        self._ids = itertools.count(1)
        self._router = Router(ROUTES, redirect_slashes=False, default=unknown)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request; nothing escapes but what the server itself raises."""
        request_id.set(str(next(self._ids)))  # a request has its own task, and so its own context
        if self._services.config.log_requests:
            await self._answer_logged(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer_logged(self, scope: Event, receive: Receive, send: Send) -> None:
        """As _answer, then a line in the log; it holds neither bodies nor headers nor queries."""
        begun_ns, status, num_bytes = time.monotonic_ns(), 0, 0

        async def noting(event: Event) -> None:
            nonlocal status, num_bytes
            status = event.get("status", status)
            num_bytes += len(event.get("body", b""))
            await send(event)

        try:
            await self._answer(scope, receive, noting)
        finally:
            duration_ns = time.monotonic_ns() - begun_ns
            log.info(
                *("%s %a %d %.1f ms", scope["method"], scope["path"][:MAX_LOGGED_CHARS], status, duration_ns / 1e6),
                extra=fields(status=status, num_bytes=num_bytes, duration_ns=duration_ns),
            )

    async def _answer(self, scope: Event, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        scope.update({"app": self, EXCHANGE: exchange, SERVICES: self._services})
        try:
            if await self.guard.admit(exchange):
                await self._router(scope, receive, send)
        except HTTPException:  # starlette's word for a known path with another method
            await refuse(self._services, exchange, 405, "405 method not allowed")
        except asyncio.CancelledError:
            await fail(exchange, Overloaded("the server is shutting down"))
        except HearthError as error:
            await fail(exchange, error)
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.path)
            await fail(exchange, HearthError("internal error; the daemon's log has the details"))
        finally:
            exchange.close()
            del scope[EXCHANGE]  # else the connection and its bodies wait for a garbage collection


async def unknown(scope: Event, receive: Receive, send: Send) -> None:
    """A path that no route has."""
    await refuse(scope[SERVICES], scope[EXCHANGE], 404, "404 page not found")


async def refuse(services: Services, exchange: Exchange, status: int, text: str) -> None:
    """Say that there is no such endpoint, in the words of the protocol that the path belongs to."""
    if exchange.path.startswith(distribution.PREFIX):
        await distribution.refuse(services, exchange)
    else:
        await exchange.text(text, status)


async def fail(exchange: Exchange, error: HearthError) -> None:
    """Tell the client, if it is still there: by status, or by a last line where the stream has begun."""
    failure = Failure(error=str(error))
    if exchange.gone or exchange.finished:
        return
    if not exchange.started and exchange.path.startswith(openai.PREFIX):
        await openai.fail(exchange, error)
    elif not exchange.started:
        await exchange.json(failure, error.status)
    elif exchange.is_stream:
        await exchange.end(msgspec.json.encode(failure) + b"\n")
