"""A registry that answers as it is told: redirects, challenges, stalls, lies; and counts what it serves.

    with misbehaving() as registry:
        digest = registry.add(data, redirect=True, faults=[truncated(1000), status(503)])

Every answer with bytes of a blob uses up one of its faults; when they are used up, it behaves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

STEP_BYTES = 64 << 10
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
EMPTY_HASH = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


def digest_of(data: bytes) -> str:
    """`sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Range:
    """What an answer is about to send: bytes `start` up to, and without, `end` of a blob."""

    data: bytes
    start: int
    end: int

    @property
    def body(self) -> bytes:
        """The bytes."""
        return self.data[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    content_host: bool  # the port that redirects lead to
    range: str
    authorization: str
    agent: str


@dataclass(slots=True)
class Blob:
    """A blob and how it is served."""

    data: bytes
    redirect: bool = False  # to the other port
    expires_after: int = 0  # answers that an address of the other port gives before it is refused; 0: no end
    ranges: bool = True
    bytes_per_s: int = 0  # of each connection; 0: no limit
    faults: list[Fault] = field(default_factory=list)
    served: list[tuple[int, int]] = field(default_factory=list)  # extents that were sent, as far as they were


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def registry(self) -> MisbehavingRegistry:
        return self.server.registry

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        with suppress(ConnectionError), self.registry.counted():
            self.registry.answer(self)

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; `_` in a header's name stands for `-`."""
        self.head(status, Content_Length=str(len(body)), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, **headers: str) -> None:
        """The answer down to the empty line."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def range_head(self, part: Range, **headers: str) -> None:
        """The head of a right answer with these bytes."""
        whole = not self.blob.ranges or not self.headers.get("Range")
        if not whole:
            headers = {"Content_Range": f"bytes {part.start}-{part.end - 1}/{len(part.data)}"} | headers
        self.head(200 if whole else 206, **({"Content_Length": str(part.end - part.start)} | headers))

    def send_bytes(self, part: Range) -> None:
        """The bytes, at the blob's pace; what was sent is noted."""
        position = part.start
        step = STEP_BYTES if not self.blob.bytes_per_s else max(1, self.blob.bytes_per_s // 20)
        try:
            while position < part.end and not self.registry.closing.is_set():
                chunk = part.data[position : min(position + step, part.end)]
                self.wfile.write(chunk)
                position += len(chunk)
                if self.blob.bytes_per_s:
                    time.sleep(len(chunk) / self.blob.bytes_per_s)
        finally:
            self.blob.served.append((part.start, position))

    def serve_range(self, blob: Blob) -> None:
        """Bytes of the blob, by way of its next fault if it has one left."""
        self.blob = blob
        text = self.headers.get("Range", "") if blob.ranges else ""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", text)
        start, end = (int(match[1]), int(match[2] or len(blob.data)) + 1) if match else (0, len(blob.data))
        if match and start >= len(blob.data):
            self.reply(416, Content_Range=f"bytes */{len(blob.data)}")
            return
        part = Range(blob.data, start, min(end, len(blob.data)))
        fault = self.registry.next_fault(blob)
        if fault is not None:
            fault(self, part)
        else:
            self.range_head(part)
            self.send_bytes(part)


Fault = Callable[[Handler, Range], None]


# -- faults ------------------------------------------------------------------------------------------------------------


def status(code: int, body: str = "out of order", **headers: str) -> Fault:
    """An error instead of bytes."""
    return lambda handler, part: handler.reply(code, body.encode(), **headers)


def truncated(num_bytes: int) -> Fault:
    """The connection is closed after so many bytes."""

    def fault(handler: Handler, part: Range) -> None:
        handler.range_head(part)
        handler.send_bytes(Range(part.data, part.start, min(part.end, part.start + num_bytes)))
        handler.close_connection = True

    return fault


def reset(num_bytes: int) -> Fault:
    """The connection is reset after so many bytes."""

    def fault(handler: Handler, part: Range) -> None:
        truncated(num_bytes)(handler, part)
        handler.wfile.flush()
        time.sleep(0.05)  # a reset throws away what the other side has not read
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return fault


def stalled(num_bytes: int) -> Fault:
    """Nothing comes any more after so many bytes, and the connection stays."""

    def fault(handler: Handler, part: Range) -> None:
        truncated(num_bytes)(handler, part)
        handler.wfile.flush()
        handler.registry.closing.wait()

    return fault


def silent(handler: Handler, part: Range) -> None:
    """Not even a status line comes."""
    handler.registry.closing.wait()
    handler.close_connection = True


def short(num_bytes: int) -> Fault:
    """A body in chunks that ends properly, so many bytes too early."""

    def fault(handler: Handler, part: Range) -> None:
        _chunked(handler, part)
        body = part.body[: len(part.body) - num_bytes]
        handler.blob.served.append((part.start, part.start + len(body)))
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    return fault


def endless(handler: Handler, part: Range) -> None:
    """A body in chunks that goes on and on."""
    _chunked(handler, part)
    for body in (part.body, *[bytes(STEP_BYTES)] * 10_000):
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))


def _chunked(handler: Handler, part: Range) -> None:
    handler.head(206, Transfer_Encoding="chunked", Content_Range=f"bytes {part.start}-{part.end - 1}/{len(part.data)}")


def wrong_range(shift: int) -> Fault:
    """Other bytes than were asked for."""

    def fault(handler: Handler, part: Range) -> None:
        handler.range_head(part, Content_Range=f"bytes {part.start + shift}-{part.end - 1 + shift}/{len(part.data)}")
        handler.send_bytes(part)

    return fault


def no_range(handler: Handler, part: Range) -> None:
    """Status 206 without a Content-Range."""
    handler.head(206, Content_Length=str(len(part.body)))
    handler.send_bytes(part)


def wrong_total(total: int) -> Fault:
    """A Content-Range that speaks of another size."""

    def fault(handler: Handler, part: Range) -> None:
        handler.range_head(part, Content_Range=f"bytes {part.start}-{part.end - 1}/{total}")
        handler.send_bytes(part)

    return fault


def wrong_length(num_bytes: int) -> Fault:
    """A Content-Length other than that of the range."""

    def fault(handler: Handler, part: Range) -> None:
        handler.range_head(part, Content_Length=str(num_bytes))
        handler.send_bytes(part)
        handler.close_connection = True

    return fault


def encoded(handler: Handler, part: Range) -> None:
    """A body that claims to be compressed."""
    handler.range_head(part, Content_Encoding="gzip")
    handler.send_bytes(part)


def corrupted(handler: Handler, part: Range) -> None:
    """The right number of wrong bytes."""
    handler.range_head(part)
    handler.send_bytes(Range(bytes(len(part.data)), part.start, part.end))


def whole(handler: Handler, part: Range) -> None:
    """Status 200 and the whole blob, whatever was asked for."""
    handler.head(200, Content_Length=str(len(part.data)))
    handler.send_bytes(Range(part.data, 0, len(part.data)))


def moved(location: str, code: int = 307) -> Fault:
    """A redirect."""
    return lambda handler, part: handler.reply(code, Location=location)


# -- who may ask -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bearer:
    """Tokens for those who sign with `public_key` (OpenSSH's form), or for all."""

    public_key: str = ""
    realm: str = ""  # else "<the registry>/token"
    user: str = ""  # "user:password" that the token server wants instead of a signature
    num_uses: int = 0  # requests that a token is good for; 0: no end
    num_tokens: int = 0
    uses: dict[str, int] = field(default_factory=dict)  # by token
    nonces: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Basic:
    """Only for this "user:password"."""

    user: str


def _is_basic(authorization: str, user: str) -> bool:
    return authorization == "Basic " + base64.b64encode(user.encode()).decode()


# -- the registry ------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: MisbehavingRegistry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # clients leave as they like


class MisbehavingRegistry:
    """Two ports: the registry's own, and the one that its redirects lead to."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.closing = threading.Event()
        self.auth: Bearer | Basic | None = None
        self.blobs: dict[str, Blob] = {}
        self.manifests: dict[str, bytes | Fault] = {}  # by "<path>:<reference>"
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._num_answering = 0
        self._address_uses: dict[str, int] = {}
        self._own, self._content = _Server(self), _Server(self)
        if tls is not None:
            self._own.socket = tls.wrap_socket(self._own.socket, server_side=True, do_handshake_on_connect=False)
        for server in (self._own, self._content):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        """The registry's."""
        return int(self._own.server_address[1])

    @property
    def host(self) -> str:
        """What stands for the registry in names."""
        return f"localhost:{self.port}"

    @property
    def content_host(self) -> str:
        """Where redirects lead."""
        return f"127.0.0.1:{self._content.server_address[1]}"

    def add(self, data: bytes, *, digest: str = "", **fields: Any) -> str:
        """Serve `data`, as the fields of Blob say; its digest, or the false one that it is to have."""
        digest = digest or digest_of(data)
        self.blobs[digest] = Blob(data, **fields)
        return digest

    def num_bytes(self, digest: str) -> int:
        """How many bytes of the blob were sent in all."""
        return sum(end - start for start, end in self.blobs[digest].served)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """While an answer is on its way."""
        with self._lock:
            self._num_answering += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_answering -= 1

    def wait_until_quiet(self) -> None:
        """Returns when no answer is on its way any more: all that was sent is in Blob.served."""
        while self._num_answering:
            time.sleep(0.01)

    def next_fault(self, blob: Blob) -> Fault | None:
        """The fault of the next answer."""
        with self._lock:
            return blob.faults.pop(0) if blob.faults else None

    def answer(self, handler: Handler) -> None:
        """Answer one request."""
        get = handler.headers.get
        content = handler.server is self._content
        path = urlsplit(handler.path).path
        seen = Seen(
            handler.command, handler.path, content, get("Range", ""), get("Authorization", ""), get("User-Agent", "")
        )
        self.seen.append(seen)
        if path == "/token":
            self._give_token(handler)
        elif content:
            self._answer_content(handler, path)
        elif self._may(handler):
            self._answer_registry(handler, path)

    def _answer_registry(self, handler: Handler, path: str) -> None:
        match = re.fullmatch(r"/v2/(.+)/(blobs|manifests)/([^/]+)", path)
        if match is None:
            handler.reply(404, b'{"errors":[{"code":"UNSUPPORTED","message":"no such endpoint"}]}')
        elif match[2] == "manifests":
            self._answer_manifest(handler, self.manifests.get(f"{match[1]}:{match[3]}"))
        elif (blob := self.blobs.get(match[3])) is None:
            handler.reply(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
        elif blob.redirect:
            with self._lock:
                number = len(self._address_uses)
                self._address_uses[str(number)] = 0
            handler.reply(307, Location=f"http://{self.content_host}/{match[3]}?signature={number}")
        else:
            handler.serve_range(blob)

    def _answer_content(self, handler: Handler, path: str) -> None:
        blob = self.blobs[path.lstrip("/")]
        number = parse_qs(urlsplit(handler.path).query).get("signature", ["0"])[0]
        with self._lock:
            self._address_uses[number] = uses = self._address_uses.get(number, 0) + 1
        if blob.expires_after and uses > blob.expires_after:
            handler.reply(403, b"<Error>Request has expired</Error>")
        else:
            handler.serve_range(blob)

    def _answer_manifest(self, handler: Handler, manifest: bytes | Fault | None) -> None:
        if manifest is None:
            handler.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        elif isinstance(manifest, bytes):
            handler.reply(200, manifest, Content_Type=MANIFEST_TYPE)
        else:
            handler.blob = Blob(b"")
            manifest(handler, Range(b"", 0, 0))

    def _may(self, handler: Handler) -> bool:
        """Whether the request is allowed; else it has been answered."""
        authorization = handler.headers.get("Authorization", "")
        if isinstance(self.auth, Basic):
            if _is_basic(authorization, self.auth.user):
                return True
            handler.reply(401, WWW_Authenticate='Basic realm="tests"')
            return False
        if self.auth is None or self._is_good(self.auth, authorization.removeprefix("Bearer ")):
            return True
        realm = self.auth.realm or f"http://{self.host}/token"
        path = urlsplit(handler.path).path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        challenge = f'Bearer realm="{realm}",service="tests",scope="repository:{path}:pull repository:other:pull"'
        handler.reply(401, WWW_Authenticate=challenge)
        return False

    def _is_good(self, auth: Bearer, token: str) -> bool:
        with self._lock:
            if token not in auth.uses:
                return False
            auth.uses[token] += 1
            return not auth.num_uses or auth.uses[token] <= auth.num_uses

    def _give_token(self, handler: Handler) -> None:
        auth = self.auth
        assert isinstance(auth, Bearer)
        authorization = handler.headers.get("Authorization", "")
        if auth.user and not _is_basic(authorization, auth.user):
            handler.reply(401, b"wrong user")
        elif auth.public_key and (why := self._signature_fault(auth, handler, authorization)):
            handler.reply(401, why.encode())
        else:
            with self._lock:
                auth.num_tokens += 1
                token = f"token-{auth.num_tokens}"
                auth.uses[token] = 0
            handler.reply(200, json.dumps({"token": token}).encode())

    def _signature_fault(self, auth: Bearer, handler: Handler, authorization: str) -> str:
        """What is wrong with the signature; "" for nothing."""
        fields = parse_qs(urlsplit(handler.path).query)
        name, _, signature = authorization.partition(":")
        kind, blob = auth.public_key.split()[:2]
        if name != blob:
            return "unknown key"
        if fields.get("service") != ["tests"] or len(fields.get("scope", [])) != 2:
            return "wrong service or scope"
        if abs(int(fields["ts"][0]) - time.time()) > 60 or not self._is_new(auth, fields["nonce"][0]):
            return "old or used"
        message = f"GET,http://{handler.headers['Host']}{handler.path},{EMPTY_HASH}".encode()
        key = load_ssh_public_key(f"{kind} {blob}".encode())
        assert isinstance(key, Ed25519PublicKey)
        try:
            key.verify(base64.b64decode(signature), message)
        except InvalidSignature:
            return "wrong signature"
        return ""

    def _is_new(self, auth: Bearer, nonce: str) -> bool:
        if nonce in auth.nonces or re.fullmatch(r"[\w-]{22}", nonce) is None:
            return False
        auth.nonces.add(nonce)
        return True

    def close(self) -> None:
        """Stop; requests that hang are let go."""
        self.closing.set()
        for server in (self._own, self._content):
            server.shutdown()
            server.server_close()


@contextmanager
def misbehaving(tls: ssl.SSLContext | None = None) -> Iterator[MisbehavingRegistry]:
    """A registry on two free loopback ports; `tls` is for its own port, redirects lead to plain HTTP."""
    registry = MisbehavingRegistry(tls)
    try:
        yield registry
    finally:
        registry.close()


def covered(extents: Sequence[tuple[int, int]]) -> int:
    """How many different bytes the extents hold."""
    total, position = 0, 0
    for start, end in sorted(extents):
        total += max(0, end - max(start, position))
        position = max(position, end)
    return total
