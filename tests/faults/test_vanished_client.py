"""Clients that leave before their answer is complete."""

from __future__ import annotations

import json
import socket
import time

import pytest

from tests.e2e.daemon import Daemon, eventually

ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


def ask(daemon: Daemon, *, stream: bool) -> socket.socket:
    """A connection on which an answer that takes very long has been asked for."""
    body = json.dumps({"model": "tiny", "prompt": "hello", "stream": stream, "options": ENDLESS}).encode()
    connection = socket.create_connection(("127.0.0.1", daemon.port), 30)
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def is_idle(daemon: Daemon) -> bool:
    """Whether the one loaded model has its clock running: nobody uses it."""
    first, second = ([model["expires_at"] for model in daemon.loaded()] for _ in range(2))
    return len(first) == 1 and first == second


@pytest.mark.parametrize("stream", [True, False])
def test_the_model_is_free_at_once_when_the_client_leaves(daemon: Daemon, stream: bool) -> None:
    daemon.post("/api/generate", model="tiny", options={"num_ctx": 60_000})
    connection = ask(daemon, stream=stream)
    eventually(lambda: not is_idle(daemon), "the model is in use")
    if stream:
        assert b"200 OK" in connection.recv(4096)
    connection.close()
    eventually(lambda: is_idle(daemon), "the model is idle")
    answer = daemon.post(
        "/api/generate", model="tiny", prompt="x", stream=False, options={"num_predict": 2, "num_ctx": 60_000}
    )
    assert answer.json()["eval_count"] == 2


def test_a_client_that_leaves_while_it_waits_frees_its_place(daemon: Daemon) -> None:
    daemon.post("/api/generate", model="tiny", options={"num_ctx": 60_000})
    connections = [ask(daemon, stream=True) for _ in range(5)]
    eventually(lambda: not is_idle(daemon), "the model is in use")
    for connection in reversed(connections):
        connection.close()
    eventually(lambda: is_idle(daemon), "the model is idle")


def test_a_reset_connection_is_a_client_that_left(daemon: Daemon) -> None:
    daemon.post("/api/generate", model="tiny", options={"num_ctx": 60_000})
    connection = ask(daemon, stream=True)
    assert b"200 OK" in connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    eventually(lambda: is_idle(daemon), "the model is idle")


def test_half_a_body_holds_nothing_up(daemon: Daemon) -> None:
    connection = socket.create_connection(("127.0.0.1", daemon.port), 30)
    connection.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert daemon.post("/api/generate", model="tiny").status_code == 200
    connection.close()
    assert daemon.http.get("/").status_code == 200


def test_half_an_upload_leaves_no_file(daemon: Daemon) -> None:
    blobs = daemon.log_path.parent / "models/blobs"
    before = sorted(blobs.iterdir())
    connection = socket.create_connection(("127.0.0.1", daemon.port), 30)
    head = f"POST /api/blobs/sha256:{'1' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    connection.sendall(head.encode() + b"x" * 3_000_000)
    eventually(lambda: sorted(blobs.iterdir()) != before, "the upload has begun")
    connection.close()
    eventually(lambda: sorted(blobs.iterdir()) == before, "nothing is left of it")


def test_nothing_of_it_reaches_the_log_as_an_error(daemon: Daemon) -> None:
    connection = ask(daemon, stream=True)
    connection.recv(100)
    connection.close()
    time.sleep(0.2)
    assert "Traceback" not in daemon.log
