"""One HTTP request and its answer, on plain ASGI messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import msgspec

from hearthd.api import binding
from hearthd.errors import Canceled, TooLarge

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Header = tuple[bytes, bytes]
T = TypeVar("T", bound=msgspec.Struct)

JSON = b"application/json; charset=utf-8"
BARE_JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

_encoder = msgspec.json.Encoder()


class Exchange:
    """What a handler reads from and answers to. `headers` are added to every answer."""

    __slots__ = (
        "_receive",
        "_send",
        "_watcher",
        "finished",
        "gone",
        "headers",
        "is_stream",
        "method",
        "path",
        "scope",
        "started",
        "tail",
    )

    def __init__(self, scope: Event, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.tail = ""  # the last segment of the path, where the route leaves it open
        self.headers: list[Header] = []
        self.is_stream = False  # one object a line: a failure can still be told after the start
        self.started = False  # the status line is out
        self.finished = False  # the last byte is handed over
        self.gone = False  # the client left
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> str:
        """The first header of that (lower-case) name, or ""."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Canceled where the client leaves before its end."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise Canceled("request canceled")
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk

    async def body(self, max_bytes: int) -> bytes:
        """The whole body; TooLarge beyond `max_bytes`, before it is all read."""
        length = self.header(b"content-length")
        if length.isdecimal() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        whole = bytearray()
        async for chunk in self.chunks():
            whole += chunk
            if len(whole) > max_bytes:
                raise _too_large(max_bytes)
        return bytes(whole)

    async def bind(self, request_type: type[T], max_bytes: int) -> T:
        """The body as a request Struct, by the rules of `binding`."""
        return binding.bind(await self.body(max_bytes), request_type)

    def watch(self) -> None:
        """From here on (the body is read) the running task is cancelled when the client leaves."""
        task = asyncio.current_task()
        if self._watcher is None and task is not None:
            self._watcher = asyncio.create_task(self._cancel_when_gone(task))

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _cancel_when_gone(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.finished:
            self.gone = True
            task.cancel()

    async def start(self, status: int, *headers: Header) -> None:
        """The status line and the headers."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.headers]})

    async def write(self, data: bytes) -> None:
        """Part of the body; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The last part of the body."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": data})

    async def answer(self, status: int, data: bytes, content_type: bytes, *headers: Header) -> None:
        """A whole answer."""
        length = str(len(data)).encode()
        await self.start(status, (b"content-type", content_type), (b"content-length", length), *headers)
        await self.end(data)

    async def json(self, payload: msgspec.Struct, status: int = 200, content_type: bytes = JSON) -> None:
        """A whole answer of one object."""
        await self.answer(status, _encoder.encode(payload), content_type)

    async def text(self, text: str, status: int = 200) -> None:
        """A whole answer of plain text."""
        await self.answer(status, text.encode(), TEXT)

    async def empty(self, status: int = 200, *headers: Header) -> None:
        """A whole answer without a body."""
        length = () if status == 204 else ((b"content-length", b"0"),)
        await self.start(status, *length, *headers)
        await self.end()


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the request body exceeds {max_bytes} bytes; large files go to /api/blobs")
