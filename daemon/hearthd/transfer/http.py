"""Requests to registries: authentication, redirects, time limits, and every failure as a TransferError."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from types import TracebackType

import aiohttp
import msgspec
from aiohttp import hdrs
from multidict import istr
from yarl import URL

from hearthd.transfer.auth import Tokens
from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.messages import FAILED, NOT_FOUND, UNAUTHORIZED, Repository, Settings
from hearthd.transfer.rate import Rate
from hearthd.transfer.registry import HUB_HOSTS, host_of, hub_hint, proxy_for, repository_url, trusts

CONNECT_TIMEOUT_S = 30.0
READ_BUFFER_BYTES = 256 << 10  # aiohttp stops reading a connection at twice as many that nobody took
MAX_HEADER_BYTES = 32 << 10  # signed addresses are long
MAX_REDIRECTS = 5
MAX_COMPLAINT_BYTES = 4 << 10  # what is read of an error's body
MAX_COMPLAINT_CHARS = 300

REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429)  # and all from 500 on

Headers = Mapping[str, str] | Mapping[istr, str]
Data = bytes | Callable[[], AsyncIterable[bytes]]  # the callable's iterator is asked for anew at every try


def user_agent(version: str) -> str:
    """`hearth/<version> (<machine> linux) Python/<version>`."""
    python = ".".join(str(number) for number in sys.version_info[:3])
    return f"hearth/{version} ({os.uname().machine} linux) Python/{python}"


class Http:
    """A client for registries; use it in `async with`."""

    def __init__(self, settings: Settings) -> None:
        self.rate = Rate(settings.max_rate)
        self._settings = settings
        self._tokens = Tokens(settings, self._send)

    async def __aenter__(self) -> Http:
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=min(CONNECT_TIMEOUT_S, self._settings.stall_timeout_s),
            sock_read=self._settings.stall_timeout_s,
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # jobs bound their own connections
            headers={hdrs.USER_AGENT: user_agent(self._settings.version), hdrs.ACCEPT_ENCODING: "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        repository: Repository,
        where: str | URL,
        *,
        headers: Headers | None = None,
        data: Data | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to one request, whatever its status; redirects are not followed.

        `where` is relative to the repository ("blobs/sha256:..."), a path of the registry or a URL. Only the
        repository's own registry sees authorization; its 401 is answered once, by authentication.
        `timeout_s`: how long the answer, or its next byte, may take; else Settings.stall_timeout_s.
        Inside the block too, a lost connection or a stall raises Passing, anything else TransferError.
        """
        url = where if isinstance(where, URL) else repository_url(repository, where)
        trusted = trusts(repository, url)
        used = self._tokens.authorization(repository) if trusted else ""
        fields = {str(name): value for name, value in (headers or {}).items()}
        async with self._send(method, repository, url, fields | _authorization(used), data, timeout_s) as response:
            if response.status != 401 or not trusted:
                yield response
                return
            challenges = response.headers.getall(hdrs.WWW_AUTHENTICATE, [])
        renewed = await self._tokens.renew(repository, challenges, used)
        async with self._send(method, repository, url, fields | _authorization(renewed), data, timeout_s) as response:
            if response.status == 401:
                raise unauthorized(repository)
            yield response

    @asynccontextmanager
    async def get(
        self, repository: Repository, where: str | URL, *, headers: Headers | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """As `request`, with redirects followed."""
        for _ in range(MAX_REDIRECTS + 1):
            async with self.request("GET", repository, where, headers=headers) as response:
                target = redirect_target(response, allow_plain=repository.plain or repository.insecure)
                if target is None:
                    yield response
                    return
            where = target
        raise TransferError(f"{repository.host} redirects more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        repository: Repository,
        url: URL,
        headers: Mapping[str, str],
        data: Data | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        with _told(url):
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=data() if callable(data) else data,
                allow_redirects=False,
                proxy=proxy_for(url),
                ssl=not repository.insecure,
                timeout=self._session.timeout if timeout_s is None else self._patient(timeout_s),
            ) as response:
                yield response

    def _patient(self, timeout_s: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self._session.timeout.sock_connect, sock_read=max(timeout_s, 0.001)
        )


def _authorization(value: str) -> dict[str, str]:
    return {hdrs.AUTHORIZATION: value} if value else {}


class _told:
    """Turns what aiohttp raises into TransferErrors that name the host."""

    def __init__(self, url: URL) -> None:
        self._host = host_of(url)

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            reason = error.certificate_error
            hint = "trust its authority on this machine, or allow insecure transfers"
            raise TransferError(f"cannot reach {self._host}: its certificate is not valid: {reason}; {hint}") from error
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            raise TransferError(f"{self._host}: the address cannot be used: {error}") from error
        if isinstance(error, aiohttp.ClientError | ConnectionError | TimeoutError):
            raise Passing(_sentence(error, self._host)) from error


def _sentence(error: BaseException, host: str) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot reach {host}: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"cannot reach {host}: no connection within the time limit"
    if isinstance(error, TimeoutError):
        return f"{host} sent nothing within the time limit"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return f"{host} closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"{host} ended the connection in the middle of an answer"
    return f"the connection to {host} failed: {one_line(str(error)) or type(error).__name__}"


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, cut to what a sentence can carry."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:MAX_COMPLAINT_CHARS]


def redirect_target(response: aiohttp.ClientResponse, *, allow_plain: bool = False) -> URL | None:
    """Where a redirect leads; None where the answer is no redirect.

    Raises TransferError for one not to follow; from https to http is such a one unless `allow_plain`.
    """
    if response.status not in REDIRECTS:
        return None
    host, location = host_of(response.url), response.headers.get(hdrs.LOCATION, "")
    try:
        target = response.url.join(URL(location, encoded=True))
    except ValueError:
        target = URL()
    if not location or target.scheme not in ("http", "https") or not target.host:
        raise TransferError(f"{host} redirects to no usable address: {one_line(location) or 'it names none'}")
    if response.url.scheme == "https" and target.scheme == "http" and not allow_plain:
        raise TransferError(f"{host} redirects from https to http ({host_of(target)}), which is refused")
    return target


def unauthorized(repository: Repository, status: int = 401) -> TransferError:
    """The error of a registry that does not let us."""
    name = f"{repository.host}/{repository.path}"
    if repository.host in HUB_HOSTS:
        return TransferError(f"unauthorized: access denied; {name} {hub_hint(repository)}", UNAUTHORIZED, status)
    hint = f"{name} is private, does not exist, or does not know this device's key or credentials"
    return TransferError(f"unauthorized: access denied; {hint}", UNAUTHORIZED, status)


async def read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body. Raises TransferError where it is longer than `max_bytes`."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise TransferError(f"{host_of(response.url)} answers with more than {max_bytes} bytes, too many for this")
    return bytes(body)


async def complaint(response: aiohttp.ClientResponse) -> str:
    """What the body of an error says, in one bounded line; the status' reason where it says nothing."""
    try:
        body = await response.content.read(MAX_COMPLAINT_BYTES)
    except (aiohttp.ClientError, TimeoutError):
        body = b""
    return _message(body) or one_line(body.decode("utf-8", "replace")) or one_line(response.reason or "")


class _Complaint(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Complaints(msgspec.Struct):
    errors: list[_Complaint]


def _message(body: bytes) -> str:
    """The messages of an OCI error body, "" where it is none: {"errors":[{"code": ..., "message": ...}]}."""
    try:
        complaints = msgspec.json.decode(body, type=_Complaints).errors
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return one_line("; ".join(item.message or item.code for item in complaints))


async def refusal(response: aiohttp.ClientResponse, repository: Repository, what: str) -> TransferError:
    """An answer of status 400 or more as the error to raise: Passing where another try may help.

    Its sentence is `<what>: <code>: <body>`, `what` such as "pull model manifest".
    """
    if response.status in (401, 403) and trusts(repository, response.url):
        return unauthorized(repository, response.status)
    text = f"{what}: {response.status}: {await complaint(response)}"
    if response.status in PASSING or response.status >= 500:
        return Passing(text, FAILED, response.status, after_s=retry_after_s(response))
    return TransferError(text, NOT_FOUND if response.status == 404 else FAILED, response.status)


def retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Seconds that the header Retry-After asks for; 0 where it asks for none."""
    value = response.headers.get(hdrs.RETRY_AFTER, "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
