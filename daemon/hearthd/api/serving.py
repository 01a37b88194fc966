"""The HTTP server: uvicorn with httptools, its lifetime in our hands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Generator, Sequence
from email.utils import formatdate
from typing import Any

from hearthd.api import uvicorn_bare
from hearthd.errors import HearthError
from hearthd.host import Host

uvicorn_bare.install()

from uvicorn.config import Config  # noqa: E402
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: E402
from uvicorn.server import Server, ServerState  # noqa: E402

MAX_HEAD_BYTES = 64 << 10  # request line and headers
IDLE_CONNECTION_S = 75
BACKLOG = 512
_CANCEL_S = 2.0  # for cancelled requests to say their last line
_FIRST_REQUEST_S = 0.5  # for the request of a client that connected just before the end


class ListenFailed(HearthError):
    """The address cannot be listened on."""


class DatedState(ServerState):
    """What connections share. The Date header is made when an answer needs it, so that nothing ticks meanwhile."""

    def __init__(self) -> None:
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Those of every answer."""
        second = int(time.time())
        if second != self._second:
            self._second, self._headers = second, [(b"date", formatdate(second, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """uvicorn's own are none."""


class HttpProtocol(HttpToolsProtocol):
    """Bounds what a client may send before its headers end, and answers those who came just before the end."""

    _head_bytes = 0
    _num_heads = 0
    _in_head = True
    _is_last = False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; a head that never ends is refused."""
        was_in_head, num_heads = self._in_head, self._num_heads
        super().data_received(data)
        if was_in_head and self._num_heads == num_heads:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"request headers exceed {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._in_head = False
        self._num_heads += 1
        super().on_headers_complete()
        if self._is_last and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The next head begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def shutdown(self) -> None:
        """Close when the running request is answered; a connection that has had none may still bring one."""
        if self._num_heads:
            super().shutdown()
        else:
            self._is_last = True
            self.loop.call_later(_FIRST_REQUEST_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if not self._num_heads and not self.transport.is_closing():
            self.transport.close()


class HttpServer(Server):
    """Serves until `stop`; then running requests have `drain_s` seconds to finish. `on_serving` is called at first."""

    def __init__(self, app: Any, drain_s: float, on_serving: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=IDLE_CONNECTION_S,
                timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]
            )
        )
        self.server_state = DatedState()
        self._on_serving = on_serving
        self._stopping = asyncio.Event()

    def set_drain(self, drain_s: float) -> None:
        """How long running requests have to finish."""
        self.config.timeout_graceful_shutdown = drain_s  # type: ignore[assignment]

    @property
    def num_running(self) -> int:
        """Requests under way."""
        return len(self.server_state.tasks)

    def complaint(self) -> str:
        """What is wrong with it, or ""."""
        if self._stopping.is_set() or (self.started and all(server.is_serving() for server in self.servers)):
            return ""
        return "the HTTP server does not listen"

    def stop(self) -> None:
        """Listen no longer, and end when the running requests have. A second call ends them now."""
        if self._stopping.is_set():
            self.force_exit = True
            self._cancel_requests()
        self._stopping.set()

    async def main_loop(self) -> None:
        """Until `stop`; uvicorn's own loop wakes ten times a second."""
        self._on_serving()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain; then cancelled requests get a moment for their last line."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            self._cancel_requests()
            await asyncio.wait(set(self.server_state.tasks), timeout=_CANCEL_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the composition root's."""
        yield

    def _cancel_requests(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. An empty host is every address of this machine. ListenFailed says what is in the way."""
    try:
        family, _, _, _, address = _address(host, port)
        return socket.create_server(
            address[:2],
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=family == socket.AF_INET6 and address[0] == "::",
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise ListenFailed(
            f"cannot listen on {host or '*'}:{port}: {reason}; set HEARTH_HOST to another address"
        ) from None


def bound_hosts(sockets: Sequence[socket.socket]) -> list[Host]:
    """Where the sockets listen. ListenFailed for one that is not TCP."""
    return [_bound_host(listening) for listening in sockets]


def _bound_host(listening: socket.socket) -> Host:
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        raise ListenFailed(f"the socket {listening.getsockname()!r} that was handed over is no TCP socket")
    address, port = listening.getsockname()[:2]
    return Host(name=address.removeprefix("::ffff:"), port=port)


def _address(host: str, port: int) -> Any:
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 (asked for)
    if host.lower() == "localhost":
        host = "127.0.0.1"  # also where no resolver knows the name
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return min(found, key=lambda entry: entry[0] != socket.AF_INET)
