"""Clients that read slowly, or send without end."""

from __future__ import annotations

import json
import socket

import pytest

from hearthd.memory import rss_bytes
from tests.e2e.daemon import Daemon

LONG = {"num_predict": 1500, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0, "seed": 1}


def connect(daemon: Daemon) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", daemon.port))
    return connection


def test_a_client_that_does_not_read_costs_little_memory_and_the_next_one_is_served(daemon: Daemon) -> None:
    daemon.post("/api/generate", model="tiny", options={"num_ctx": 60_000})
    before_bytes = rss_bytes(daemon.process.pid)
    body = json.dumps({"model": "tiny", "prompt": "hello", "options": LONG}).encode()
    with connect(daemon) as connection:
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        options = {"num_predict": 3, "num_ctx": 60_000}
        answer = daemon.post("/api/generate", model="tiny", prompt="x", stream=False, options=options)
        assert answer.json()["eval_count"] == 3
        assert rss_bytes(daemon.process.pid) - before_bytes < 16 << 20


def test_a_client_that_reads_slowly_gets_the_whole_answer(daemon: Daemon) -> None:
    body = json.dumps({"model": "tiny", "prompt": "hello", "options": LONG}).encode()
    received = bytearray()
    with connect(daemon) as connection:
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        while data := connection.recv(777):
            received += data
    assert received.endswith(b"0\r\n\r\n")
    assert b'"eval_count":1500' in received


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000, b"GET /" + b"a" * 300_000])
def test_headers_without_end_are_refused(daemon: Daemon, head: bytes) -> None:
    with connect(daemon) as connection:
        try:
            connection.sendall(head)
            answer = connection.recv(200)
        except ConnectionError:  # closed while we were still sending
            answer = b"HTTP/1.1 400"
    assert answer.startswith(b"HTTP/1.1 400")
    assert daemon.http.get("/").status_code == 200


def test_many_requests_on_one_connection_are_answered_in_order(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        received = bytearray()
        while received.count(b"200 OK") < 50:
            data = connection.recv(65536)
            assert data, "the connection was closed"
            received += data
