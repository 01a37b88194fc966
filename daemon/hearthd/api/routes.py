"""The table of endpoints, and the ASGI application that serves it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from hearthd.api import about, blobs, chat, create, generate, later, models
from hearthd.api.exchange import Event, Exchange, Receive, Send
from hearthd.api.guard import Guard
from hearthd.api.services import Services
from hearthd.api.wire import Failure
from hearthd.errors import HearthError, Overloaded

log = logging.getLogger(__name__)

Handler = Callable[[Services, Exchange], Awaitable[None]]


class Route(NamedTuple):
    """One endpoint. A last segment `:name` matches any one segment; the handler finds it in `exchange.tail`."""

    methods: tuple[str, ...]
    path: str
    handler: Handler


ROUTES = (
    Route(("GET", "HEAD"), "/", about.root),
    Route(("GET", "HEAD"), "/api/version", about.version),
    Route(("GET",), "/api/status", about.status),
    Route(("GET", "HEAD"), "/api/tags", models.tags),
    Route(("GET",), "/api/ps", models.ps),
    Route(("POST",), "/api/show", models.show),
    Route(("POST",), "/api/copy", models.copy),
    Route(("DELETE",), "/api/delete", models.delete),
    Route(("POST",), "/api/generate", generate.generate),
    Route(("POST",), "/api/chat", chat.chat),
    Route(("POST",), "/api/create", create.create),
    Route(("GET", "HEAD"), "/api/blobs/:digest", blobs.check),
    Route(("POST",), "/api/blobs/:digest", blobs.upload),
    Route(("POST",), "/api/pull", later.pull),
    Route(("POST",), "/api/push", later.push),
    Route(("POST",), "/api/embed", later.embed),
    Route(("POST",), "/api/embeddings", later.embed),
)


class Api:
    """The ASGI application."""

    def __init__(self, services: Services, guard: Guard) -> None:
        self._services = services
        self._guard = guard
        self._handlers: dict[str, dict[str, Handler]] = {}
        for route in ROUTES:
            methods = self._handlers.setdefault(_pattern(route.path), {})
            methods.update(dict.fromkeys(route.methods, route.handler))

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request; nothing escapes but what the server itself raises."""
        exchange = Exchange(scope, receive, send)
        try:
            if await self._guard.admit(exchange):
                await self._dispatch(exchange)
        except asyncio.CancelledError:
            await fail(exchange, Overloaded("the server is shutting down"))
        except HearthError as error:
            await fail(exchange, error)
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.path)
            await fail(exchange, HearthError("internal error; the daemon's log has the details"))
        finally:
            exchange.close()

    async def _dispatch(self, exchange: Exchange) -> None:
        handlers = self._handlers.get(exchange.path)
        if handlers is None:
            head, _, exchange.tail = exchange.path.rpartition("/")
            handlers = self._handlers.get(f"{head}/:") if exchange.tail else None
        if handlers is None:
            await exchange.text("404 page not found", 404)
        elif exchange.method not in handlers:
            await exchange.text("405 method not allowed", 405)
        else:
            await handlers[exchange.method](self._services, exchange)


async def fail(exchange: Exchange, error: HearthError) -> None:
    """Tell the client, if it is still there: by status, or by a last line where the stream has begun."""
    failure = Failure(error=str(error))
    if exchange.gone or exchange.finished:
        return
    if not exchange.started:
        await exchange.json(failure, error.status)
    elif exchange.is_stream:
        await exchange.end(msgspec.json.encode(failure) + b"\n")


def _pattern(path: str) -> str:
    head, colon, _ = path.partition(":")
    return head + colon
