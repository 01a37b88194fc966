"""Who may talk to the daemon: the Host check against DNS rebinding, and CORS for browsers."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from hearthd.api.exchange import Exchange, Header

ALLOWED_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOWED_HEADERS = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,"
    b"x-stainless-arch,x-stainless-async,x-stainless-custom-poll-interval,x-stainless-helper-method,"
    b"x-stainless-lang,x-stainless-os,x-stainless-package-version,x-stainless-poll-helper,"
    b"x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
PREFLIGHT_SECONDS = b"43200"
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


class Guard:
    """The policy of one listening address. `origins` are patterns in which `*` stands for anything."""

    def __init__(self, bind_host: str, origins: Iterable[str]) -> None:
        patterns = list(origins)
        self.checks_host = is_loopback(bind_host)
        self._any_origin = "*" in patterns
        self._origins = re.compile("|".join(re.escape(p.lower()).replace(r"\*", ".*") for p in patterns) or r"(?!)")
        self._hostname = socket.gethostname().lower()

    def allows_host(self, header: str) -> bool:
        """Whether a request with this Host header may pass."""
        if not self.checks_host:
            return True
        host = _without_port(header).lower()
        return host in ("", "localhost", self._hostname) or host.endswith(_LOCAL_SUFFIXES) or _is_local_address(host)

    def allows_origin(self, origin: str) -> bool:
        """Whether a page from this Origin may call the API."""
        return self._any_origin or self._origins.fullmatch(origin.lower()) is not None

    async def admit(self, exchange: Exchange) -> bool:
        """True where the request goes on to its handler; otherwise it has been answered here."""
        host = exchange.header(b"host")
        if not self.allows_host(host):
            await exchange.empty(403)
            return False
        origin = exchange.header(b"origin")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            return await self._admit_origin(exchange, origin)
        if exchange.method == "OPTIONS":
            await exchange.empty(204)
            return False
        return True

    async def _admit_origin(self, exchange: Exchange, origin: str) -> bool:
        if not self.allows_origin(origin):
            await exchange.empty(403)
            return False
        exchange.headers.extend(self._origin_headers(origin))
        if exchange.method != "OPTIONS":
            return True
        await exchange.empty(
            204,
            (b"access-control-allow-methods", ALLOWED_METHODS),
            (b"access-control-allow-headers", ALLOWED_HEADERS),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        )
        return False

    def _origin_headers(self, origin: str) -> list[Header]:
        if self._any_origin:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]


def is_loopback(host: str) -> bool:
    """Whether listening on `host` is reachable from this machine only."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _without_port(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return header


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local_address(host: str) -> bool:
    address = _address(host)
    if address is None:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified or _is_own_address(address)


def _is_own_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an interface of this machine holds `address`: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
