from __future__ import annotations

import pytest

from hearthd.api.guard import Guard, is_loopback
from hearthd.values import DEFAULT_ORIGINS


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LocalHost:11434",
        "127.0.0.1:11434",
        "127.8.9.10",
        "[::1]:11434",
        "0.0.0.0:11434",
        "192.168.1.20",
        "10.0.0.1:80",
        "board.local",
        "board.local:11434",
        "a.b.internal",
        "x.localhost",
    ],
)
def test_local_hosts_are_admitted(host: str) -> None:
    assert Guard("127.0.0.1", ()).allows_host(host)


@pytest.mark.parametrize(
    "host",
    ["example.com", "example.com:11434", "8.8.8.8", "local", "localhost.example.com", "[2001:4860::1]", "[", "a]b"],
)
def test_foreign_hosts_are_refused(host: str) -> None:
    assert not Guard("127.0.0.1", ()).allows_host(host)


@pytest.mark.parametrize("bind_host", ["", "0.0.0.0", "::", "192.168.1.20"])
def test_hosts_are_not_checked_where_others_are_meant_to_connect(bind_host: str) -> None:
    assert Guard(bind_host, ()).allows_host("example.com")


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("127.0.0.1", True), ("::1", True), ("", False), ("10.0.0.1", False)]
)
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "app://obsidian", "file://", "tauri://x"],
)
def test_local_origins_are_admitted_by_default(origin: str) -> None:
    assert Guard("127.0.0.1", DEFAULT_ORIGINS).allows_origin(origin)


@pytest.mark.parametrize(
    "origin", ["http://example.com", "null", "http://localhost.example.com", "http://xlocalhost", "https://127.0.0.1x"]
)
def test_foreign_origins_are_refused_by_default(origin: str) -> None:
    assert not Guard("127.0.0.1", DEFAULT_ORIGINS).allows_origin(origin)


def test_configured_origins_may_hold_wildcards() -> None:
    guard = Guard("127.0.0.1", ("https://*.example.com", "chrome-extension://*"))
    assert guard.allows_origin("https://a.b.example.com")
    assert guard.allows_origin("chrome-extension://abc")
    assert not guard.allows_origin("https://example.com")


def test_without_origins_no_page_is_admitted() -> None:
    assert not Guard("127.0.0.1", ()).allows_origin("http://localhost")
    assert Guard("127.0.0.1", ("*",)).allows_origin("https://anything.example")
