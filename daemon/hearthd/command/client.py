"""The server's API, as the commands use it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from hearthd import __version__
from hearthd.command import http
from hearthd.command.failure import CommandFailed, NoServer, ServerRefused
from hearthd.command.replies import Nothing, Reply
from hearthd.command.terminal import line
from hearthd.host import Host, parse_host
from hearthd.values import Unreadable

HOST_VARIABLES = ("HEARTH_HOST", "OLLAMA_HOST")
MAX_ANSWER_BYTES = 256 << 20
_MAX_ERROR_BYTES = 1 << 20

R = TypeVar("R", bound=Reply)


def host_of(environ: Mapping[str, str]) -> Host:
    """Where the environment says that the server is. CommandFailed for a value that cannot be read."""
    for variable in HOST_VARIABLES:
        text = environ.get(variable, "").strip().strip("\"'").strip()
        if not text:
            continue
        try:
            host = parse_host(text).connectable
        except Unreadable as error:
            raise CommandFailed(f"{variable}={text[:100]!r} is no address: {error}") from None
        if host.scheme not in ("http", "https"):
            raise CommandFailed(f"{variable}={text[:100]!r} is no address: its scheme is neither http nor https")
        return host
    return Host()


class Client:
    """One server. Every method raises NoServer, ServerRefused and ConnectionLost."""

    def __init__(self, host: Host, api_key: str = "") -> None:
        self.host = host
        self._headers = {"User-Agent": f"hearth/{__version__}", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {line(api_key)}"

    def greet(self) -> None:
        """Returns where a server answers."""
        with self._exchange("HEAD", "/"):
            pass

    def get(self, path: str, reply: type[R]) -> R:
        """The answer to a GET."""
        with self._exchange("GET", path) as response:
            return _decoded(_whole(response), reply)

    def ask(self, path: str, payload: Mapping[str, Any], reply: type[R], method: str = "POST") -> R:
        """The answer, in one piece, to a request with `payload` as JSON."""
        with self._exchange(method, path, payload) as response:
            return _decoded(_whole(response), reply)

    def tell(self, path: str, payload: Mapping[str, Any], method: str = "POST") -> None:
        """As ask, for what has no answer but success."""
        with self._exchange(method, path, payload) as response:
            _whole(response)

    def stream(self, path: str, payload: Mapping[str, Any], reply: type[R]) -> Generator[R]:
        """The lines of the answer as they arrive. Closing the iterator hangs up."""
        decoder = msgspec.json.Decoder(reply)
        with self._exchange("POST", path, payload) as response:
            for text in _lines(response):
                yield _decoded(text, reply, decoder)

    def has_blob(self, digest: str) -> bool:
        """Whether the server has the blob."""
        try:
            with self._exchange("HEAD", f"/api/blobs/{digest}"):
                return True
        except ServerRefused as error:
            if error.status == 404:
                return False
            raise

    def upload(self, digest: str, parts: Iterable[bytes], size: int) -> None:
        """Give the server a blob of `size` bytes."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with (
            self._reached(),
            http.exchange(self.host, "POST", f"/api/blobs/{digest}", self._headers | headers, parts) as response,
        ):
            _check(response)
            _whole(response)

    @contextlib.contextmanager
    def _exchange(self, method: str, path: str, payload: Mapping[str, Any] | None = None) -> Iterator[http.Response]:
        body = b"" if payload is None else msgspec.json.encode(payload)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}
        with self._reached(), http.exchange(self.host, method, path, self._headers | headers, body) as response:
            _check(response, has_body=method != "HEAD")
            yield response

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except NoServer as error:
            raise NoServer(f"no server answers at {self.host.url} ({error}); start one with 'hearth serve'") from None


def _check(response: http.Response, has_body: bool = True) -> None:
    """Raises ServerRefused unless the answer is a good one."""
    if 200 <= response.status < 300:
        return
    sentence = _sentence(_whole(response, _MAX_ERROR_BYTES)) if has_body else ""
    raise ServerRefused(sentence or f"the server answered with status {response.status}", response.status)


def _sentence(body: bytes) -> str:
    try:
        return line(msgspec.json.decode(body, type=Nothing).error)
    except msgspec.DecodeError:
        return line(body.decode("utf-8", "replace"), 200)


def _whole(response: http.Response, max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    body = bytearray()
    for chunk in response.chunks():
        body += chunk
        if len(body) > max_bytes:
            raise CommandFailed(f"the server's answer exceeds {max_bytes} bytes")
    return bytes(body)


def _lines(response: http.Response) -> Iterator[bytes]:
    rest = bytearray()
    for chunk in response.chunks():
        rest += chunk
        if len(rest) > MAX_ANSWER_BYTES:
            raise CommandFailed(f"a line of the server's answer exceeds {MAX_ANSWER_BYTES} bytes")
        *lines, tail = rest.split(b"\n") if b"\n" in chunk else (rest,)
        yield from filter(None, map(bytes, lines))
        rest = tail
    if rest.strip():
        yield bytes(rest)


def _decoded(text: bytes, reply: type[R], decoder: msgspec.json.Decoder[R] | None = None) -> R:
    try:
        answer = decoder.decode(text) if decoder else msgspec.json.decode(text, type=reply)
    except msgspec.DecodeError as error:
        raise CommandFailed(f"the server's answer makes no sense: {error}") from None
    if answer.error:
        raise ServerRefused(line(answer.error))
    return answer
