"""Bodies that are not what they should be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.daemon import Daemon, running

BODIES = {
    "nothing": (b"", "missing request body"),
    "blanks": (b" \r\n\t", "missing request body"),
    "words": (b"hello", "invalid JSON"),
    "truncated": (b'{"model": "tiny", "prompt', "invalid JSON"),
    "single quotes": (b"{'model': 'tiny'}", "invalid JSON"),
    "a list": (b"[]", "must be a JSON object"),
    "a number": (b"12", "must be a JSON object"),
    "nested without end": (b'{"a":' * 100_000, "nested too deeply"),
    "binary": (bytes(range(256)), "invalid JSON"),
    "wrong type": (b'{"model": {"name": "tiny"}}', "field 'model': expected string"),
    "huge number": (b'{"model": 1' + b"0" * 10_000 + b"}", ""),
}
PATHS = {
    "POST": ["/api/generate", "/api/chat", "/api/show", "/api/create", "/api/copy"],
    "DELETE": ["/api/delete"],
}


@pytest.mark.parametrize("method,path", [(method, path) for method, paths in PATHS.items() for path in paths])
@pytest.mark.parametrize("body", BODIES)
def test_a_bad_body_is_refused_with_a_sentence(daemon: Daemon, method: str, path: str, body: str) -> None:
    data, sentence = BODIES[body]
    if path == "/api/copy":
        data = data.replace(b"model", b"source")
        sentence = sentence.replace("model", "source")
    response = daemon.http.request(method, path, content=data)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert sentence in response.json()["error"]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_the_content_type_does_not_matter(daemon: Daemon, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = daemon.http.post("/api/show", content=b'{"model": "tiny"}', headers=headers)
    assert response.status_code == 200


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("small"), HEARTH_MAX_BODY_BYTES="10000") as daemon:
        yield daemon


def test_a_body_beyond_the_bound_is_refused_by_its_announced_length(small: Daemon) -> None:
    response = small.http.post("/api/show", content=b" " * 10_001)
    assert (response.status_code, "exceeds 10000 bytes" in response.json()["error"]) == (413, True)


def test_a_body_beyond_the_bound_is_refused_without_an_announced_length(small: Daemon) -> None:
    response = small.http.post("/api/show", content=iter([b" " * 6000] * 2))
    assert (response.status_code, "exceeds 10000 bytes" in response.json()["error"]) == (413, True)


def test_blobs_have_no_such_bound(small: Daemon) -> None:
    response = small.http.post(f"/api/blobs/sha256:{'0' * 64}", content=b" " * 100_000)
    assert (response.status_code, "digest mismatch" in response.json()["error"]) == (400, True)


def test_no_bad_body_reaches_the_log_as_a_failure(daemon: Daemon) -> None:
    for data, _ in BODIES.values():
        daemon.http.post("/api/chat", content=data)
    assert "Traceback" not in daemon.log
