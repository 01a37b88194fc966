"""HTTP/1.1 with one request a connection: the standard library's client takes longer to import than a list to show."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator, Mapping

import httptools

from hearthd.command.failure import ConnectionLost, NoServer
from hearthd.host import Host

CONNECT_TIMEOUT_S = 10.0
_RECEIVE_BYTES = 1 << 16


class Response:
    """The answer to one request. `chunks` is its body, to be read at most once."""

    def __init__(self, connection: socket.socket) -> None:
        self.headers: dict[str, str] = {}
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._bodies: list[bytes] = []
        self._has_headers = False
        self._is_complete = False
        while not self._has_headers:
            self._receive()

    @property
    def status(self) -> int:
        """The status code."""
        return self._parser.get_status_code()

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. ConnectionLost where the connection ends before it does."""
        while True:
            yield from self._bodies
            self._bodies.clear()
            if self._is_complete:
                return
            self._receive()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Of httptools. What comes before the answer itself (100 Continue) is passed over."""
        self._has_headers = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """Of httptools."""
        self._bodies.append(body)

    def on_message_complete(self) -> None:
        """Of httptools."""
        self._is_complete = self._has_headers

    def _receive(self) -> None:
        try:
            data = self._connection.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise _lost(str(error.strerror or error)) from None
        if not data:
            self._end()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise (error.__context__ or error) from None  # Ctrl-C in a callback
        except httptools.HttpParserError:
            if self._is_complete:  # what follows the answer is nobody's
                return
            raise NoServer("what answers there does not speak HTTP") from None

    def _end(self) -> None:
        """The other side closed: the end of a body that has no length, or too early."""
        if not self._has_headers or "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise _lost("the server closed it")
        self._is_complete = True


def _lost(reason: str) -> ConnectionLost:
    return ConnectionLost(f"the connection to the server was lost: {reason}")


@contextlib.contextmanager
def exchange(
    host: Host, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] = b""
) -> Iterator[Response]:
    """The answer to one request; the connection is closed after the block. `headers` tell the body's length.

    Raises NoServer where the server cannot be reached, ConnectionLost where it goes away before it answers.
    """
    with _connect(host) as connection:
        lines = [f"{method} {host.path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, f"Host: {_authority(host)}", "Connection: close", "", ""]).encode("latin-1")
        _send(connection, head, body)
        yield Response(connection)


def _send(connection: socket.socket, head: bytes, body: bytes | Iterable[bytes]) -> None:
    """Write all. A server that refuses closes early: its answer, if any, says why."""
    try:
        if isinstance(body, bytes):
            connection.sendall(head + body)
            return
        connection.sendall(head)
        for part in body:
            connection.sendall(part)
    except (BrokenPipeError, ConnectionResetError):
        return


def _connect(host: Host) -> socket.socket:
    try:
        connection = socket.create_connection((host.name, host.port), CONNECT_TIMEOUT_S)
        if host.scheme == "https":
            connection = _with_tls(connection, host.name)
    except TimeoutError:
        raise NoServer(f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
    except (OSError, UnicodeError) as error:
        raise NoServer(str(getattr(error, "strerror", None) or error)) from None
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.settimeout(None)  # a model may take minutes to load
    return connection


def _with_tls(connection: socket.socket, name: str) -> socket.socket:
    import ssl

    return ssl.create_default_context().wrap_socket(connection, server_hostname=name)


def _authority(host: Host) -> str:
    return host.url.partition("://")[2].removesuffix(host.path)
