"""Where the daemon listens, or where a client finds one: `[scheme://]host[:port][/path]`."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from hearthd.values import Unreadable

DEFAULT_PORT = 11434
SCHEME_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Host:
    """An address to listen on or to connect to."""

    scheme: str = "http"
    name: str = "127.0.0.1"  # IPv6 without brackets; "": every interface
    port: int = DEFAULT_PORT
    path: str = ""  # "/ollama" behind a proxy

    @property
    def url(self) -> str:
        """`http://127.0.0.1:11434`."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{name}:{self.port}{self.path}"

    @property
    def connectable(self) -> Host:
        """The host that a client on this machine connects to: an unspecified address becomes loopback."""
        loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return Host(self.scheme, loopback.get(self.name, self.name), self.port, self.path)


def parse_host(text: str) -> Host:
    """`[scheme://]host[:port][/path]`. Raises Unreadable for a bad port, with the default port instead."""
    scheme, separator, rest = text.strip().partition("://")
    default_port = SCHEME_PORTS.get(scheme, DEFAULT_PORT)
    if not separator:
        scheme, rest, default_port = "http", text.strip(), DEFAULT_PORT
        if rest == "ollama.com":
            scheme, default_port = "https", SCHEME_PORTS["https"]
    address, slash, path = rest.partition("/")
    name, port_text = _split_port(address)
    path = slash + path.rstrip("/") if path else ""
    port = _port(port_text)
    if port_text is not None and port is None:
        raise Unreadable(f"port {port_text[:20]!r} is not 0-65535", Host(scheme, name, default_port, path))
    return Host(scheme, name, default_port if port is None else port, path)


def _split_port(address: str) -> tuple[str, str | None]:
    if _is_ipv6(address.strip("[]")):
        return address.strip("[]"), None
    name, colon, port_text = address.rpartition(":")
    if colon:
        return name.strip("[]"), port_text
    return address or "127.0.0.1", None


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def _port(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return int(text) if int(text) <= 65535 else None
