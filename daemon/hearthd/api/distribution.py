"""The store as a read-only registry for other devices: what pulls need of the distribution protocol.

    GET /v2/                                              {}
    GET /v2/<namespace>/<model>/manifests/<reference>     a manifest, by tag or by digest, byte for byte
    GET /v2/<namespace>/<model>/blobs/<digest>            a blob that a manifest of that repository mentions, or a range
    GET /v2/<namespace>/<model>/tags/list                 {"name": ..., "tags": [...]}
    GET /v2/_catalog                                      {"repositories": [...]}

A repository has no host: models of the default host come first, then those of other hosts by the host's name.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from functools import partial, wraps
from pathlib import Path
from urllib.parse import parse_qs, quote

import msgspec

from hearthd.api.exchange import BARE_JSON, Exchange, Header
from hearthd.api.ranges import Span, Unsatisfiable, is_known, is_same, parse_range
from hearthd.api.services import Services
from hearthd.errors import Canceled, HearthError, InvalidDigest, NotFound, StoreError
from hearthd.store import media, names
from hearthd.store.blobs import digest_hex, normal_digest
from hearthd.store.names import DEFAULT_HOST, ModelName
from hearthd.store.removal import directories
from hearthd.store.store import ModelStore, StoredModel
from hearthd.threads import in_thread

log = logging.getLogger(__name__)

PREFIX = "/v2/"
CHUNK_BYTES = 512 << 10
MAX_BODIES = 16  # blobs on their way at a time; the memory of each is three chunks
STALL_S = 120.0  # a client that takes nothing for so long is left
MAX_LISTED = 10_000

_VERSION = (b"docker-distribution-api-version", b"registry/2.0")
_BLOB = b"application/octet-stream"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+-]{1,100}/[A-Za-z0-9.+-]{1,100}")
_bodies = asyncio.Semaphore(MAX_BODIES)

Handler = Callable[[Services, Exchange], Awaitable[None]]


class RegistryError(msgspec.Struct, frozen=True):
    """One failure, in the protocol's words."""

    code: str
    message: str


class Errors(msgspec.Struct, frozen=True):
    """The body of a failed answer."""

    errors: tuple[RegistryError, ...]


class Empty(msgspec.Struct, frozen=True):
    """`{}`."""


class Tags(msgspec.Struct, frozen=True):
    """The tags of a repository."""

    name: str  # "library/smollm2"
    tags: tuple[str, ...]


class Catalog(msgspec.Struct, frozen=True):
    """All repositories."""

    repositories: tuple[str, ...]


class Refused(HearthError):
    """A request that the protocol answers by a code."""

    def __init__(self, status: int, code: str, message: str, *headers: Header) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def shared(handler: Handler) -> Handler:
    """`handler`, called where sharing is on, its failures told in the protocol's form."""

    @wraps(handler)
    async def guarded(services: Services, exchange: Exchange) -> None:
        exchange.headers.append(_VERSION)
        try:
            if not services.config.share:
                raise Refused(404, "UNSUPPORTED", "this device does not share its models; set HEARTH_SHARE=1 there")
            await handler(services, exchange)
        except HearthError as error:
            if exchange.started:
                raise
            await _tell(exchange, error)

    return guarded


async def _tell(exchange: Exchange, error: HearthError) -> None:
    code, headers = (error.code, error.headers) if isinstance(error, Refused) else ("UNKNOWN", ())
    data = msgspec.json.encode(Errors((RegistryError(code, str(error)),)))
    length = str(len(data)).encode()
    await exchange.start(error.status, (b"content-type", BARE_JSON), (b"content-length", length), *headers)
    await exchange.end(data)


@shared
async def base(services: Services, exchange: Exchange) -> None:
    """That the protocol is spoken here."""
    await exchange.json(Empty(), content_type=BARE_JSON)


@shared
async def refuse(services: Services, exchange: Exchange) -> None:
    """Any other path or method."""
    if exchange.method not in ("GET", "HEAD"):
        raise Refused(405, "UNSUPPORTED", "this registry is read-only", (b"allow", b"GET, HEAD"))
    raise Refused(404, "NAME_UNKNOWN", "no such path; repositories are <namespace>/<model>")


@shared
async def manifest(services: Services, exchange: Exchange) -> None:
    """A manifest's bytes, with its media type and digest."""
    reference: str = exchange.scope["path_params"]["reference"]
    models = _repository(services.store, exchange)
    model = next((model for model in models if _is_meant(model, reference)), None)
    data = _manifest_bytes(services.store, model) if model else b""
    if model is None or not data:
        raise Refused(404, "MANIFEST_UNKNOWN", f"{_asked(exchange)} has no manifest {reference[:100]!r} here")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    content_type = model.manifest.media_type if _MEDIA_TYPE.fullmatch(model.manifest.media_type) else media.MANIFEST
    if is_known(exchange.header(b"if-none-match"), _etag(digest)):
        await _not_modified(exchange, digest)
    else:
        await exchange.answer(200, data, content_type.encode(), *_identity(digest))


@shared
async def blob(services: Services, exchange: Exchange) -> None:
    """A blob, or the range that is asked for."""
    digest = _shared_digest(services.store, exchange)
    etag = _etag(digest)
    if is_known(exchange.header(b"if-none-match"), etag):
        await _not_modified(exchange, digest)
        return
    with services.store.blobs.open(digest) as file:
        size = os.fstat(file.fileno()).st_size
        wanted = exchange.header(b"range") if is_same(exchange.header(b"if-range"), etag) else ""
        span = _span(wanted, size)
        whole = span or Span(0, size)
        headers = [(b"content-type", _BLOB), (b"accept-ranges", b"bytes"), *_identity(digest)]
        headers.append((b"content-length", str(whole.num_bytes).encode()))
        if span is not None:
            headers.append((b"content-range", f"bytes {span.first}-{span.end - 1}/{size}".encode()))
        if exchange.method == "HEAD":
            await exchange.start(200 if span is None else 206, *headers)
            await exchange.end()
        else:
            await _send(exchange, file.fileno(), whole, 200 if span is None else 206, headers)


@shared
async def tags(services: Services, exchange: Exchange) -> None:
    """The tags of a repository, by name."""
    models = _repository(services.store, exchange)
    if not models:
        raise Refused(404, "NAME_UNKNOWN", f"no model of {_asked(exchange)} is here")
    first = models[0].name
    found = _page(exchange, _distinct(model.name.tag for model in models))
    await exchange.json(Tags(f"{first.namespace}/{first.model}", found), content_type=BARE_JSON)


@shared
async def catalog(services: Services, exchange: Exchange) -> None:
    """All repositories, by name."""
    models = sorted(services.store.models(), key=_host_order)
    found = _page(exchange, _distinct(f"{model.name.namespace}/{model.name.model}" for model in models))
    await exchange.json(Catalog(found), content_type=BARE_JSON)


# what is meant


def _repository(store: ModelStore, exchange: Exchange) -> list[StoredModel]:
    """The models of the repository in the path, whatever its case, in the order in which they are looked at."""
    wanted = (exchange.scope["path_params"]["namespace"], exchange.scope["path_params"]["model"])
    if not all(map(names.is_valid_part, ("namespace", "model"), wanted)):
        raise Refused(400, "NAME_INVALID", f"{_asked(exchange)!r} is not the name of a model")
    found = (_readable(store, name) for name in _names(store, *wanted))
    return sorted((model for model in found if model is not None), key=_host_order)


def _names(store: ModelStore, namespace: str, model: str) -> Iterator[ModelName]:
    """The names below the directories that are spelled so but for case; other models are not looked at."""
    for host in directories(store.manifests):
        for parent in _spelled(host, namespace):
            for directory in _spelled(parent, model):
                with suppress(FileNotFoundError):  # removed a moment ago
                    places = (path.relative_to(store.manifests).parts for path in directory.iterdir())
                    yield from (name for name in map(names.from_path, places) if name is not None)


def _spelled(parent: Path, word: str) -> list[Path]:
    return [directory for directory in directories(parent) if directory.name.lower() == word.lower()]


def _readable(store: ModelStore, name: ModelName) -> StoredModel | None:
    """The model, unless it is damaged or was removed a moment ago."""
    try:
        return store.resolve(name)
    except HearthError:
        return None


def _host_order(model: StoredModel) -> tuple[bool, tuple[str, ...]]:
    return (model.name.host != DEFAULT_HOST, model.name.path)


def _asked(exchange: Exchange) -> str:
    """The repository in the path, bounded."""
    parameters = exchange.scope["path_params"]
    return f"{parameters['namespace'][:80]}/{parameters['model'][:80]}"


def _is_meant(model: StoredModel, reference: str) -> bool:
    return reference == f"sha256:{model.digest}" or model.name.tag.lower() == reference.lower()


def _manifest_bytes(store: ModelStore, model: StoredModel) -> bytes:
    """The stored bytes; none where the model was removed a moment ago."""
    try:
        return store.manifest_bytes(model.name)
    except NotFound:
        return b""


def _shared_digest(store: ModelStore, exchange: Exchange) -> str:
    """The digest in the path, where a manifest of the repository mentions it and the blob is here."""
    asked: str = exchange.scope["path_params"]["digest"]
    try:
        digest = normal_digest(asked)
    except InvalidDigest:
        raise Refused(400, "DIGEST_INVALID", f"{asked[:100]!r} is not sha256:<64 hexadecimal digits>") from None
    parts = (part.digest for model in _repository(store, exchange) for part in model.manifest.parts)
    if digest_hex(digest) not in map(digest_hex, parts) or not store.blobs.has(digest):
        raise Refused(404, "BLOB_UNKNOWN", f"{_asked(exchange)} has no blob {digest} here")
    return digest


def _span(header: str, size: int) -> Span | None:
    try:
        return parse_range(header, size)
    except Unsatisfiable:
        raise Refused(
            416, "RANGE_INVALID", f"the blob has {size} bytes", (b"content-range", f"bytes */{size}".encode())
        ) from None


# what is sent


def _etag(digest: str) -> str:
    return f'"{digest}"'


def _identity(digest: str) -> tuple[Header, ...]:
    return ((b"docker-content-digest", digest.encode()), (b"etag", _etag(digest).encode()))


async def _not_modified(exchange: Exchange, digest: str) -> None:
    await exchange.start(304, *_identity(digest))
    await exchange.end()


async def _send(exchange: Exchange, fd: int, span: Span, status: int, headers: Iterable[Header]) -> None:
    """The bytes of `span`; the file is read ahead by one chunk while the client takes the last."""
    if _bodies.locked():
        raise Refused(429, "TOOMANYREQUESTS", "too many blobs are being sent; try again", (b"retry-after", b"1"))
    async with _bodies, aclosing(_chunks(fd, span)) as chunks:
        exchange.watch()
        await exchange.start(status, *headers)
        async for chunk in chunks:
            await _write(exchange, chunk)
        await exchange.end()


async def _write(exchange: Exchange, chunk: bytes) -> None:
    try:
        async with asyncio.timeout(STALL_S):
            await exchange.write(chunk)
    except TimeoutError:
        log.warning("a client took nothing of a blob for %g s and is left", STALL_S)
        raise Canceled(f"the client took nothing for {STALL_S:g} s") from None


async def _chunks(fd: int, span: Span) -> AsyncGenerator[bytes]:
    """The bytes of `span` in order. StoreError where the file ends before it."""
    position = span.first
    reading = _read(fd, position, span.end)
    try:
        while reading is not None:
            chunk = await reading
            if not chunk:
                raise StoreError("a blob lost bytes while it was sent")
            position += len(chunk)
            reading = _read(fd, position, span.end)
            yield chunk
    finally:
        if reading is not None:
            await asyncio.wait([reading])  # it uses the file


def _read(fd: int, position: int, end: int) -> asyncio.Task[bytes] | None:
    """The next chunk, being read; None at the end."""
    if position >= end:
        return None
    return asyncio.create_task(in_thread(partial(os.pread, fd, min(CHUNK_BYTES, end - position), position)))


# lists


def _distinct(words: Iterable[str]) -> list[str]:
    """The words without those that differ from an earlier one in case only, sorted."""
    spelled: dict[str, str] = {}
    for word in words:
        spelled.setdefault(word.lower(), word)
    return sorted(spelled.values())


def _page(exchange: Exchange, words: list[str]) -> tuple[str, ...]:
    """The words that `n` and `last` of the query ask for; where more follow, a Link header says so."""
    try:
        query = parse_qs(exchange.scope["query_string"].decode("latin-1"), max_num_fields=10)
    except ValueError:
        raise Refused(400, "PAGINATION_NUMBER_INVALID", "the query has too many fields") from None
    last, number = query.get("last", [""])[0], query.get("n", [""])[0]
    words = [word for word in words if word > last]
    num_wanted = int(number) if number.isascii() and number.isdecimal() and len(number) < 6 else MAX_LISTED
    page = words[:num_wanted]
    if page and len(page) < len(words):
        link = f'<{quote(exchange.path)}?n={num_wanted}&last={quote(page[-1])}>; rel="next"'
        exchange.headers.append((b"link", link.encode()))
    return tuple(page)
