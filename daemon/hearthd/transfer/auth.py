"""Who we are to a registry: answers to `WWW-Authenticate`, kept for the repository they were given for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from hearthd.transfer.credentials import basic_credentials
from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.messages import UNAUTHORIZED, Repository, Settings
from hearthd.transfer.registry import host_of, hub_token, registry_url, trusts
from hearthd.transfer.threads import in_thread

MAX_ANSWER_BYTES = 256 << 10
EMPTY_HASH = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()  # of a body without bytes

_SCHEME = re.compile(r"(?:^|,)\s*(Bearer|Basic)\s+", re.IGNORECASE)
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')


class Send(Protocol):
    """One request without authentication of its own."""

    def __call__(
        self, method: str, repository: Repository, url: URL, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]: ...


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for."""

    scheme: str  # "bearer" or "basic"
    realm: str = ""
    service: str = ""
    scope: str = ""


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """The challenges that we can answer, Bearer first; https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1."""
    found = []
    for header in headers:
        starts = list(_SCHEME.finditer(header[:8192]))
        for match, after in zip(starts, [*starts[1:], None], strict=False):
            text = header[match.end() : after.start() if after else 8192]
            fields = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(text)}
            known = {name: fields[name] for name in ("realm", "service", "scope") if name in fields}
            found.append(Challenge(match[1].lower(), **known))
    return sorted(found, key=lambda challenge: challenge.scheme != "bearer")


class Tokens:
    """Values of the header Authorization by repository. They are never logged."""

    def __init__(self, settings: Settings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._values: dict[Repository, str] = {}
        self._locks: dict[Repository, asyncio.Lock] = {}

    def authorization(self, repository: Repository) -> str:
        """What to send at first; "" for nothing."""
        token = hub_token(repository)
        return self._values.get(repository, f"Bearer {token}" if token else "")

    async def renew(self, repository: Repository, headers: Sequence[str], used: str) -> str:
        """What to send after a 401 with these `WWW-Authenticate` headers to a request that sent `used`.

        Requests that are refused together share one renewal. Raises TransferError with UNAUTHORIZED where
        there is nothing to answer with.
        """
        async with self._locks.setdefault(repository, asyncio.Lock()):
            current = self._values.get(repository, "")
            if current in ("", used):
                current = self._values[repository] = await self._answer(repository, parse_challenges(headers))
            return current

    async def _answer(self, repository: Repository, challenges: Sequence[Challenge]) -> str:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.realm:
                return "Bearer " + await self._fetch_token(repository, challenge)
            if value := await self._basic(registry_url(repository)):
                return value
        raise denied(repository, "it wants a user name and password" if challenges else "it offers no way to log in")

    async def _basic(self, url: URL) -> str:
        return await in_thread(basic_credentials, self._settings.credentials, host_of(url))

    async def _fetch_token(self, repository: Repository, challenge: Challenge) -> str:
        realm = realm_url(repository, challenge)
        basic = await self._basic(registry_url(repository))
        if basic or not trusts(repository, realm) or not self._settings.key:
            return await self._ask(repository, token_url(realm, challenge), basic)
        url = stamped(token_url(realm, challenge))
        try:
            return await self._ask(repository, url, await in_thread(self._signature, url))
        except TransferError as error:
            if error.reason != UNAUTHORIZED:
                raise
            # registries that know no such signatures give everybody a token for what is public
            return await self._ask(repository, token_url(realm, challenge), "")

    def _signature(self, url: URL) -> str:
        from hearthd.transfer import key  # cryptography takes 6 MiB: only where a registry wants a signature

        return key.sign(self._settings.key, f"GET,{url},{EMPTY_HASH}".encode())

    async def _ask(self, repository: Repository, url: URL, authorization: str) -> str:
        headers = {"Authorization": authorization} if authorization else {}
        async with self._send("GET", repository, url, headers) as response:
            if response.status == 429 or response.status >= 500:
                raise Passing(f"{host_of(url)} gives no token: it answers {response.status}", status=response.status)
            if response.status != 200:
                raise denied(repository, f"{host_of(url)} gives no token, it answers {response.status}")
            body = await response.content.read(MAX_ANSWER_BYTES)
            while response.content.total_bytes <= MAX_ANSWER_BYTES and (more := await response.content.readany()):
                body += more
        return _token(body, url)


def _token(body: bytes, url: URL) -> str:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransferError(f"{host_of(url)} answers with no token: {error}") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TransferError(f"{host_of(url)} answers with no usable token")
    return token


def denied(repository: Repository, why: str) -> TransferError:
    """The error where authentication is not possible."""
    return TransferError(f"unauthorized: access denied by {repository.host}: {why}", UNAUTHORIZED, 401)


def realm_url(repository: Repository, challenge: Challenge) -> URL:
    """Where tokens are given. Raises TransferError for an address that must not be asked."""
    try:
        realm = registry_url(repository).join(URL(challenge.realm))
    except ValueError:
        realm = URL()
    if realm.scheme not in ("http", "https") or not realm.host:
        raise denied(repository, f"its realm {challenge.realm[:200]!r} is no address")
    if realm.scheme == "http" and registry_url(repository).scheme == "https":
        raise denied(repository, f"its realm {challenge.realm[:200]!r} is not encrypted")
    return realm


def token_url(realm: URL, challenge: Challenge) -> URL:
    """The realm with the service and one `scope` for each scope."""
    fields = [("service", challenge.service)] if challenge.service else []
    return realm.extend_query([*fields, *(("scope", scope) for scope in challenge.scope.split())])


def stamped(url: URL) -> URL:
    """The URL with what makes its signature good for one use: the time and a nonce."""
    nonce = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
    return url.extend_query([("ts", str(int(time.time()))), ("nonce", nonce)])
