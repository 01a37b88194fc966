"""The client against a server that answers as it is told, byte for byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from hearthd.command.client import Client, host_of
from hearthd.command.failure import CommandFailed, ConnectionLost, NoServer, ServerRefused
from hearthd.command.replies import Chunk, Step, Version
from hearthd.host import Host

OK = b"HTTP/1.1 200 OK\r\n"


class Stand:
    """Takes one connection at a time, remembers what it was sent, and answers always the same."""

    def __init__(self, answer: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.answer = answer
        self.heard = b""
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def client(self, **options: str) -> Client:
        return Client(Host(name="127.0.0.1", port=self.port), **options)

    def _serve(self) -> None:
        with self.listener.accept()[0] as connection:
            while b"\r\n\r\n" not in self.heard:
                self.heard += connection.recv(1 << 16)
            connection.sendall(self.answer)


@contextmanager
def standing(answer: bytes) -> Iterator[Stand]:
    stand = Stand(answer)
    with closing(stand.listener):
        yield stand
        stand.thread.join(10)


def test_a_whole_answer_is_read_by_its_length() -> None:
    with standing(OK + b'Content-Length: 17\r\n\r\n{"version":"1.2"}more') as stand:
        assert stand.client().get("/api/version", Version).version == "1.2"
    assert stand.heard.startswith(b"GET /api/version HTTP/1.1\r\n")


def test_an_answer_without_length_ends_with_the_connection() -> None:
    with standing(OK + b'\r\n{"version":"1.2"}') as stand:
        assert stand.client().get("/api/version", Version).version == "1.2"


def test_what_precedes_the_answer_is_passed_over() -> None:
    with standing(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b'Content-Length: 17\r\n\r\n{"version":"1.2"}') as stand:
        assert stand.client().get("/api/version", Version).version == "1.2"


def test_a_stream_yields_its_lines_however_they_are_cut() -> None:
    chunks = [b'{"status":"a"}\n{"sta', b'tus":"b"}', b'\n{"status":"c"}\n']
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    with standing(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body) as stand:
        assert [step.status for step in stand.client().stream("/api/pull", {}, Step)] == ["a", "b", "c"]


def test_an_error_line_ends_a_stream() -> None:
    body = b'{"status":"a"}\n{"error":"disk\\nfull\\u001b[31m"}\n'
    with standing(OK + b"\r\n" + body) as stand:
        steps = stand.client().stream("/api/pull", {}, Step)
        assert next(steps).status == "a"
        with pytest.raises(ServerRefused, match=r"^disk full\[31m$"):
            next(steps)


def test_a_stream_cut_short_is_a_lost_connection() -> None:
    with standing(OK + b'Transfer-Encoding: chunked\r\n\r\nf\r\n{"status":"a"}\n\r\n') as stand:
        steps = stand.client().stream("/api/pull", {}, Step)
        assert next(steps).status == "a"
        with pytest.raises(ConnectionLost, match="the connection to the server was lost"):
            next(steps)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error":"model \'x\' not found"}', "model 'x' not found"),
        (b"404 page not found", "404 page not found"),
        (b"", "the server answered with status 404"),
    ],
)
def test_a_refusal_carries_status_and_sentence(body: bytes, sentence: str) -> None:
    with (
        standing(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as stand,
        pytest.raises(ServerRefused) as refused,
    ):
        stand.client().ask("/api/show", {}, Version)
    assert (refused.value.status, str(refused.value)) == (404, sentence)


def test_an_answer_that_is_no_json_fails_in_a_sentence() -> None:
    with (
        standing(OK + b"Content-Length: 4\r\n\r\n<ht>") as stand,
        pytest.raises(CommandFailed, match="the server's answer makes no sense"),
    ):
        stand.client().get("/api/version", Version)


def test_what_does_not_speak_http_is_no_server() -> None:
    with standing(b"SSH-2.0-OpenSSH_9.2\r\n") as stand, pytest.raises(NoServer, match="does not speak HTTP"):
        stand.client().greet()


def test_null_and_unknown_fields_are_no_obstacle() -> None:
    body = b'{"models":null,"brand_new":[1]}'
    with standing(OK + b"\r\n" + body) as stand:
        assert not next(stand.client().stream("/api/chat", {}, Chunk)).done


def test_the_key_is_sent_and_the_host_named() -> None:
    with standing(OK + b"Content-Length: 17\r\n\r\n") as stand:
        stand.client(api_key="secret").greet()
    assert b"\r\nAuthorization: Bearer secret\r\n" in stand.heard
    assert b"\r\nHost: 127.0.0.1:%d\r\n" % stand.port in stand.heard


def test_a_blob_that_is_missing_is_told_from_one_that_is_there() -> None:
    with standing(b"HTTP/1.1 404 Not Found\r\n\r\n") as stand:
        assert not stand.client().has_blob("sha256:0")
    with standing(OK + b"\r\n") as stand:
        assert stand.client().has_blob("sha256:0")


def test_a_server_that_refuses_an_upload_early_is_heard() -> None:
    answer = b'HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 21\r\n\r\n{"error":"disk full"}'
    with standing(answer) as stand, pytest.raises(CommandFailed):  # its sentence, or a reset that overtakes it
        stand.client().upload("sha256:0", (bytes(1 << 20) for _ in range(64)), 64 << 20)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:11434"),
        ({"OLLAMA_HOST": "box"}, "http://box:11434"),
        ({"HEARTH_HOST": "https://box/api", "OLLAMA_HOST": "other"}, "https://box:443/api"),
        ({"HEARTH_HOST": " '0.0.0.0:80' "}, "http://127.0.0.1:80"),
        ({"HEARTH_HOST": ":1234"}, "http://127.0.0.1:1234"),
        ({"HEARTH_HOST": "[::1]:99"}, "http://[::1]:99"),
    ],
)
def test_the_environment_says_where_the_server_is(environ: dict[str, str], url: str) -> None:
    assert host_of(environ).url == url


@pytest.mark.parametrize(
    ("value", "reason"),
    [("box:99999", "port '99999' is not 0-65535"), ("ftp://box", "its scheme is neither http nor https")],
)
def test_an_address_that_cannot_be_is_refused(value: str, reason: str) -> None:
    with pytest.raises(CommandFailed, match=reason) as failed:
        host_of({"HEARTH_HOST": value})
    assert str(failed.value).startswith("HEARTH_HOST=")


def test_nothing_there_is_told_with_place_and_remedy() -> None:
    with pytest.raises(NoServer, match=r"no server answers at http://127\.0\.0\.1:1 .*; start one with 'hearth serve'"):
        Client(Host(name="127.0.0.1", port=1)).greet()


def test_a_name_that_cannot_be_resolved_is_no_server() -> None:
    with pytest.raises(NoServer, match=r"no server answers at http://no-such-host\.invalid:1 "):
        Client(Host(name="no-such-host.invalid", port=1)).greet()
