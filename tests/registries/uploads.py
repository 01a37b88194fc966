"""A registry that takes uploads and does what docker-registry cannot be brought to do.

It keeps the half of a part that came before the line broke, sends parts to a second port (307), answers what a test
tells it to, and remembers every request.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STEP_BYTES = 1 << 16


@dataclass(slots=True)
class Seen:
    """A request as it came."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case
    num_body_bytes: int = 0


@dataclass(slots=True)
class Reply:
    """What a test wants answered."""

    method: str
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    reads_body: bool = True


@dataclass(slots=True)
class Session:
    """An upload under way."""

    data: bytearray = field(default_factory=bytearray)
    parts: list[bytes] = field(default_factory=list)  # the ones that went to the second port, in order


class UploadRegistry:
    """The registry; give clients `host`."""

    def __init__(
        self,
        *,
        redirects: bool = False,
        relative: bool = False,
        upload_location: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.redirects = redirects  # parts go to the second port
        self.relative = relative  # Location is a path
        self.upload_location = upload_location  # Docker-Upload-Location says the truth, Location does not
        self.keeps_range = True  # says in answers how far an upload is
        self.least_part = 0  # bytes
        self.num_open = 0  # connections
        self.cut_after: int | None = None  # bytes of the next part, after which the line breaks
        self.replies: list[Reply] = []  # each is given once, to the next request of its method
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by path
        self.manifest_digest: str | None = None  # a lie
        self.sessions: dict[str, Session] = {}
        self.seen: list[Seen] = []
        self.seen_by_target: list[Seen] = []
        self._ids = itertools.count(1)
        self.lock = threading.Lock()
        self._servers = [_serve(self, _Registry, tls), _serve(self, _Target)]
        self.port, self.target_port = (int(server.server_address[1]) for server in self._servers)
        self.host = f"localhost:{self.port}"

    def begin(self) -> str:
        """The identifier of a new upload."""
        uuid = f"u{next(self._ids)}"
        self.sessions[uuid] = Session()
        return uuid

    def reply_for(self, method: str) -> Reply | None:
        """The test's own answer to this request."""
        with self.lock:
            for reply in self.replies:
                if reply.method == method:
                    self.replies.remove(reply)
                    return reply
        return None

    def requests(self, method: str) -> list[Seen]:
        """What came with that method, in order."""
        return [seen for seen in self.seen if seen.method == method]

    def close(self) -> None:
        """Nobody listens any more."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    registry: UploadRegistry


def _serve(
    registry: UploadRegistry, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.registry = registry
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def registry(self) -> UploadRegistry:
        return self.server.registry

    def handle(self) -> None:
        with self.registry.lock:
            self.registry.num_open += 1
        try:
            super().handle()
        finally:
            with self.registry.lock:
                self.registry.num_open -= 1

    def see(self, log: list[Seen]) -> Seen:
        seen = Seen(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        log.append(seen)
        return seen

    def body(self, seen: Seen, into: bytearray, most: int | None = None) -> bool:
        """Appends the body to `into`; False where the line broke, by `most` or by the client."""
        left = int(self.headers.get("Content-Length", 0))
        if most is not None:
            left, whole = min(left, most), left <= most
        else:
            whole = True
        while left:
            data = self.rfile.read1(min(left, STEP_BYTES))
            if not data:
                return False
            into += data
            seen.num_body_bytes += len(data)
            left -= len(data)
        return whole

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def linger(self) -> None:
        """Close the way servers do, so that the client reads the answer: what still comes is read and dropped."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR)
        while self.rfile.read1(STEP_BYTES):
            pass

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `seen` tells it."""


class _Registry(_Handler):
    def handle_request(self) -> None:
        seen = self.see(self.registry.seen)
        reply = self.registry.reply_for(self.command)
        if reply is not None:
            self.obey(seen, reply)
            return
        upload = re.fullmatch(r"/v2/.+/blobs/uploads/(u\d+)", urlsplit(self.path).path)
        if upload:
            self.upload(seen, upload[1])
        elif self.command == "HEAD":
            digest = self.path.rpartition("/")[2]
            self.answer(200 if digest in self.registry.blobs else 404)
        elif self.command == "POST":
            self.answer(
                202, {"OCI-Chunk-Min-Length": str(self.registry.least_part)} | self.place(self.registry.begin())
            )
        elif self.command == "PUT" and "/manifests/" in self.path:
            self.manifest(seen)
        else:
            self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_request

    def obey(self, seen: Seen, reply: Reply) -> None:
        if reply.reads_body:
            self.body(seen, bytearray())
            self.answer(reply.status, reply.headers, reply.body)
        else:
            self.answer(reply.status, reply.headers | {"Connection": "close"}, reply.body)
            self.linger()

    def place(self, uuid: str) -> dict[str, str]:
        """Headers that say where the upload goes on; the query has to come back."""
        session = self.registry.sessions[uuid]
        repository = self.path.split("/blobs/")[0]
        place = f"{repository}/blobs/uploads/{uuid}?at={len(session.data)}&n={len(session.parts)}"
        if not self.registry.relative:
            place = f"http://localhost:{self.registry.port}{place}"
        headers = {"Location": place}
        if self.registry.upload_location:
            headers = {"Location": "/nowhere", "Docker-Upload-Location": place}
        if self.registry.keeps_range:
            headers["Range"] = f"0-{max(0, len(session.data) - 1)}"
        return headers

    def upload(self, seen: Seen, uuid: str) -> None:
        session = self.registry.sessions.get(uuid)
        if session is None:
            self.answer(404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown"}]}')
        elif self.command == "GET":
            self.answer(204, self.place(uuid))
        elif self.command == "PATCH" and self.registry.redirects:
            self.redirect(uuid, session)
        elif self.command == "PATCH":
            self.append(seen, uuid, session)
        elif self.command == "PUT":
            self.commit(uuid, session)
        else:
            self.answer(405)

    def append(self, seen: Seen, uuid: str, session: Session) -> None:
        query = parse_qs(urlsplit(self.path).query)
        first = int(seen.headers["content-range"].partition("-")[0])
        if first != len(session.data) or query.get("n") != ["0"]:
            self.body(seen, bytearray())
            self.answer(416, self.place(uuid))
            return
        most, self.registry.cut_after = self.registry.cut_after, None
        if self.body(seen, session.data, most):
            self.answer(202, self.place(uuid))
        else:
            self.close_connection = True

    def redirect(self, uuid: str, session: Session) -> None:
        """The part is not read here: it goes to the second port."""
        number = int(parse_qs(urlsplit(self.path).query)["n"][0])
        del session.parts[number:]
        target = f"http://127.0.0.1:{self.registry.target_port}/part/{uuid}/{number}?signed=yes"
        following = self.place(uuid)["Location"].replace(f"&n={number}", f"&n={number + 1}")
        self.answer(307, {"Docker-Upload-Location": following, "Location": target, "Connection": "close"})
        self.linger()

    def commit(self, uuid: str, session: Session) -> None:
        query = parse_qs(urlsplit(self.path).query)
        data = b"".join(session.parts) or bytes(session.data)
        sums = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in session.parts)
        etag = f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(session.parts)}"
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if query["digest"] != [digest] or (session.parts and query.get("etag") != [etag]):
            self.answer(400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"it is not what it says it is"}]}')
            return
        self.registry.blobs[digest] = data
        del self.registry.sessions[uuid]
        self.answer(201, {"Docker-Content-Digest": digest})

    def manifest(self, seen: Seen) -> None:
        data = bytearray()
        self.body(seen, data)
        self.registry.manifests[self.path] = (seen.headers["content-type"], bytes(data))
        digest = self.registry.manifest_digest or "sha256:" + hashlib.sha256(data).hexdigest()
        self.answer(201, {"Docker-Content-Digest": digest})


class _Target(_Handler):
    """The second port: a store that takes parts by signed URL."""

    def do_PUT(self) -> None:
        seen = self.see(self.registry.seen_by_target)
        reply = self.registry.reply_for("TARGET")
        if reply is not None:
            self.body(seen, bytearray())
            self.answer(reply.status, reply.headers, reply.body)
            return
        _, _, uuid, number = urlsplit(self.path).path.split("/")
        data = bytearray()
        if not self.body(seen, data):
            self.close_connection = True
            return
        self.registry.sessions[uuid].parts[int(number) :] = [bytes(data)]
        self.answer(200, {"ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'})


@contextmanager
def upload_registry(
    *,
    redirects: bool = False,
    relative: bool = False,
    upload_location: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Iterator[UploadRegistry]:
    """A registry that listens; with `tls` it does not know that itself and names addresses by http."""
    registry = UploadRegistry(redirects=redirects, relative=relative, upload_location=upload_location, tls=tls)
    try:
        yield registry
    finally:
        registry.close()
