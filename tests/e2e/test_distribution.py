"""The registry that a daemon is for its neighbours, over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hearthd.memory import rss_bytes
from hearthd.store import media, names
from hearthd.store.manifest import ImageConfig, Layer, Manifest, encode
from hearthd.store.store import ModelStore, open_store
from tests.e2e.daemon import Daemon, eventually, running

BIG_BYTES = (8 << 20) + 17
BIG = random.Random(1).randbytes(BIG_BYTES)
HOME = "library/tiny"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add_model(store: ModelStore, name: str, content: bytes, media_type: str = media.MANIFEST) -> bytes:
    """Puts a model of one layer into the store; its manifest's bytes."""
    config = encode(ImageConfig(model_format="gguf"))
    manifest = Manifest(
        media_type=media_type,
        config=Layer(media.CONFIG, store.blobs.put(config), len(config)),
        layers=(Layer(media.MODEL, store.blobs.put(content), len(content)),),
    )
    data = json.dumps(json.loads(encode(manifest)), indent=3).encode()  # bytes that no encoder of ours writes
    store.write_manifest(names.parse(name), data)
    return data


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, manifests: dict[str, bytes]) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("sharing")
    store = open_store(directory / "models")
    for name, content in {
        "tiny": BIG,
        "tiny:small": b"small",
        "a.example/library/tiny:latest": b"of another host",
        "b.example:5000/library/Tiny:only-there": b"only there",
        "b.example:5000/some/Model.v2:q4": b"some",
        "ns/tiny": b"of another namespace",
        "empty": b"",
    }.items():
        manifests[name] = add_model(store, name, content)
    manifests["odd"] = add_model(store, "odd", b"x", media_type="text/html\r\nx-injected: 1")
    with running(directory, HEARTH_SHARE="1") as daemon:
        yield daemon


def failure(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal in the protocol's form."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["docker-distribution-api-version"] == "registry/2.0"
    (error,) = response.json()["errors"]
    assert error["message"]
    return response.status_code, error["code"]


def blob_url(content: bytes, repository: str = HOME) -> str:
    return f"/v2/{repository}/blobs/{digest_of(content)}"


def test_the_protocol_announces_itself(daemon: Daemon) -> None:
    response = daemon.http.get("/v2/")
    assert (response.status_code, response.json()) == (200, {})
    assert response.headers["docker-distribution-api-version"] == "registry/2.0"
    assert daemon.http.head("/v2/").status_code == 200


def test_a_manifest_is_served_byte_for_byte_with_its_digest(daemon: Daemon, manifests: dict[str, bytes]) -> None:
    response = daemon.http.get(f"/v2/{HOME}/manifests/latest")
    assert response.content == manifests["tiny"]
    assert response.headers["content-type"] == media.MANIFEST
    assert response.headers["docker-content-digest"] == digest_of(manifests["tiny"])
    by_digest = daemon.http.get(f"/v2/{HOME}/manifests/{digest_of(manifests['tiny'])}")
    assert by_digest.content == manifests["tiny"]


def test_head_of_a_manifest_has_its_length_and_no_body(daemon: Daemon, manifests: dict[str, bytes]) -> None:
    response = daemon.http.head(f"/v2/{HOME}/manifests/latest")
    assert response.headers["content-length"] == str(len(manifests["tiny"]))
    assert response.content == b""


def test_a_known_manifest_is_not_sent_again(daemon: Daemon) -> None:
    etag = daemon.http.get(f"/v2/{HOME}/manifests/latest").headers["etag"]
    again = daemon.http.get(f"/v2/{HOME}/manifests/latest", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_the_default_host_comes_first_and_other_hosts_are_found(daemon: Daemon, manifests: dict[str, bytes]) -> None:
    assert daemon.http.get(f"/v2/{HOME}/manifests/latest").content == manifests["tiny"]
    only_there = daemon.http.get(f"/v2/{HOME}/manifests/only-there")
    assert only_there.content == manifests["b.example:5000/library/Tiny:only-there"]
    other = digest_of(manifests["a.example/library/tiny:latest"])
    assert daemon.http.get(f"/v2/{HOME}/manifests/{other}").status_code == 200


def test_names_are_found_whatever_their_case(daemon: Daemon, manifests: dict[str, bytes]) -> None:
    response = daemon.http.get("/v2/LIBRARY/Tiny/manifests/SMALL")
    assert response.content == manifests["tiny:small"]


def test_a_media_type_that_is_none_is_not_sent(daemon: Daemon) -> None:
    response = daemon.http.get("/v2/library/odd/manifests/latest")
    assert response.headers["content-type"] == media.MANIFEST
    assert "x-injected" not in response.headers


def test_a_blob_is_served_whole(daemon: Daemon) -> None:
    response = daemon.http.get(blob_url(BIG))
    assert response.status_code == 200
    assert response.content == BIG
    assert response.headers["content-length"] == str(BIG_BYTES)
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"] == f'"{digest_of(BIG)}"'


def test_an_empty_blob_is_served(daemon: Daemon) -> None:
    response = daemon.http.get(blob_url(b"", "library/empty"))
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=5-9"}])
def test_head_of_a_blob_sends_no_body(daemon: Daemon, headers: dict[str, str]) -> None:
    response = daemon.http.head(blob_url(BIG), headers=headers)
    assert response.content == b""
    assert response.headers["content-length"] == ("5" if headers else str(BIG_BYTES))


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=524287-524289", 524287, 524290),
        (f"bytes={BIG_BYTES - 1}-", BIG_BYTES - 1, BIG_BYTES),
        ("bytes=-7", BIG_BYTES - 7, BIG_BYTES),
        ("bytes=1000000-5000000", 1000000, 5000001),
    ],
)
def test_a_range_of_a_blob_is_served(daemon: Daemon, asked: str, first: int, end: int) -> None:
    response = daemon.http.get(blob_url(BIG), headers={"range": asked})
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {first}-{end - 1}/{BIG_BYTES}"
    assert response.content == BIG[first:end]


def test_a_range_behind_the_end_is_416_with_the_size(daemon: Daemon) -> None:
    response = daemon.http.get(blob_url(BIG), headers={"range": f"bytes={BIG_BYTES}-"})
    assert failure(response) == (416, "RANGE_INVALID")
    assert response.headers["content-range"] == f"bytes */{BIG_BYTES}"


@pytest.mark.parametrize(("if_range", "status"), [(f'"{digest_of(BIG)}"', 206), ('"other"', 200)])
def test_a_range_of_other_content_is_the_whole_blob(daemon: Daemon, if_range: str, status: int) -> None:
    response = daemon.http.get(blob_url(BIG), headers={"range": "bytes=0-3", "if-range": if_range})
    assert response.status_code == status
    assert response.content == (BIG[:4] if status == 206 else BIG)


def test_a_known_blob_is_not_sent_again(daemon: Daemon) -> None:
    response = daemon.http.get(blob_url(BIG), headers={"if-none-match": f'"{digest_of(BIG)}"'})
    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "want"),
    [
        (f"/v2/{HOME}/manifests/missing", (404, "MANIFEST_UNKNOWN")),
        (f"/v2/{HOME}/manifests/{digest_of(b'?')}", (404, "MANIFEST_UNKNOWN")),
        (f"/v2/{HOME}/manifests/..%2f..%2fetc", (404, "NAME_UNKNOWN")),
        ("/v2/library/nobody/manifests/latest", (404, "MANIFEST_UNKNOWN")),
        ("/v2/library/nobody/tags/list", (404, "NAME_UNKNOWN")),
        ("/v2/library/-x/tags/list", (400, "NAME_INVALID")),
        ("/v2/lib.rary/tiny/manifests/latest", (400, "NAME_INVALID")),
        ("/v2/library/%00/manifests/latest", (400, "NAME_INVALID")),
        (f"/v2/%2e%2e/tiny/blobs/{digest_of(BIG)}", (400, "NAME_INVALID")),
        (f"/v2/{HOME}/blobs/sha256:12", (400, "DIGEST_INVALID")),
        (f"/v2/{HOME}/blobs/{digest_of(b'nowhere')}", (404, "BLOB_UNKNOWN")),
        ("/v2/tiny/manifests/latest", (404, "NAME_UNKNOWN")),
        ("/v2/nonsense", (404, "NAME_UNKNOWN")),
    ],
)
def test_what_is_not_here_is_refused_in_the_protocols_form(daemon: Daemon, path: str, want: tuple[int, str]) -> None:
    assert failure(daemon.http.get(path)) == want


def test_a_blob_of_another_repository_is_not_served(daemon: Daemon) -> None:
    assert daemon.http.head(blob_url(b"some", "some/model.v2")).status_code == 200
    assert failure(daemon.http.get(blob_url(b"some"))) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", [f"/v2/{HOME}/manifests/latest", f"/v2/{HOME}/blobs/uploads/", blob_url(BIG)])
def test_nothing_can_be_written(daemon: Daemon, method: str, path: str) -> None:
    assert failure(daemon.http.request(method, path, content=b"x")) == (405, "UNSUPPORTED")


def test_tags_of_all_hosts_are_listed(daemon: Daemon) -> None:
    answer = daemon.http.get(f"/v2/{HOME}/tags/list").json()
    assert answer == {"name": HOME, "tags": ["latest", "only-there", "small"]}


def test_the_catalog_lists_each_repository_once(daemon: Daemon) -> None:
    answer = daemon.http.get("/v2/_catalog").json()
    assert answer == {"repositories": ["library/empty", "library/odd", "library/tiny", "ns/tiny", "some/Model.v2"]}


def test_a_damaged_manifest_is_left_out(tmp_path: Path) -> None:
    store = open_store(tmp_path / "models")
    sound = add_model(store, "tiny", b"content")
    damaged = store.manifests / "a.example/library/tiny/latest"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    with running(tmp_path, HEARTH_SHARE="1") as daemon:
        assert daemon.http.get(f"/v2/{HOME}/manifests/latest").content == sound
        assert daemon.http.get(blob_url(b"content")).content == b"content"


def test_lists_can_be_read_in_pages(daemon: Daemon) -> None:
    first = daemon.http.get("/v2/_catalog?n=3")
    assert first.json()["repositories"] == ["library/empty", "library/odd", "library/tiny"]
    rest = daemon.http.get(first.links["next"]["url"])
    assert rest.json()["repositories"] == ["ns/tiny", "some/Model.v2"]
    assert "next" not in rest.links


def test_a_query_without_end_is_refused(daemon: Daemon) -> None:
    assert failure(daemon.http.get("/v2/_catalog?" + "a=1&" * 50))[0] == 400


def test_a_client_that_leaves_lets_go_of_the_file(daemon: Daemon) -> None:
    request = f"GET {blob_url(BIG)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(request)
        assert client.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: open_blobs(daemon), "the blob is open")
    eventually(lambda: not open_blobs(daemon), "the blob is closed")
    assert "Traceback" not in daemon.log


def open_blobs(daemon: Daemon) -> list[str]:
    found = []
    for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if "/blobs/sha256-" in target:
            found.append(target)
    return found


def test_slow_clients_take_little_memory_and_too_many_are_told_to_come_back(daemon: Daemon) -> None:
    before = rss_bytes(daemon.process.pid)
    request = f"GET {blob_url(BIG)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    clients = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(16)]
    try:
        for client in clients:
            client.sendall(request)
            assert client.recv(12) == b"HTTP/1.1 200"
        refused = daemon.http.get(blob_url(BIG))
        assert failure(refused) == (429, "TOOMANYREQUESTS")
        assert refused.headers["retry-after"] == "1"
        assert rss_bytes(daemon.process.pid) - before < 32 << 20
    finally:
        for client in clients:
            client.close()
    eventually(lambda: not open_blobs(daemon), "all blobs are closed")
    assert daemon.http.get(blob_url(BIG)).content == BIG


def test_a_blob_that_shrinks_while_it_is_sent_ends_the_connection(tmp_path: Path) -> None:
    content = bytes(64 << 20)
    store = open_store(tmp_path / "models")
    add_model(store, "big", content)
    path = store.blobs.path(digest_of(content))
    url = blob_url(content, "library/big")
    with running(tmp_path, HEARTH_SHARE="1") as daemon, pytest.raises(httpx.RemoteProtocolError):  # noqa: SIM117
        with daemon.http.stream("GET", url) as response:
            os.truncate(path, 1 << 20)
            response.read()


def test_a_host_that_is_not_allowed_gets_nothing(daemon: Daemon) -> None:
    response = daemon.http.get(f"/v2/{HOME}/manifests/latest", headers={"host": "evil.example"})
    assert (response.status_code, response.content) == (403, b"")


def test_without_the_setting_nothing_is_shared(tmp_path: Path) -> None:
    add_model(open_store(tmp_path / "models"), "tiny", b"content")
    with running(tmp_path) as daemon:
        for path in ("/v2/", f"/v2/{HOME}/manifests/latest", blob_url(b"content"), "/v2/_catalog", "/v2/x"):
            response = daemon.http.get(path)
            assert failure(response) == (404, "UNSUPPORTED")
            assert "HEARTH_SHARE" in response.json()["errors"][0]["message"]


def test_a_removed_model_is_not_shared_any_more(tmp_path: Path) -> None:
    add_model(open_store(tmp_path / "models"), "tiny", b"content")
    with running(tmp_path, HEARTH_SHARE="1") as daemon:
        assert daemon.http.get(blob_url(b"content")).content == b"content"
        assert daemon.http.request("DELETE", "/api/delete", json={"model": "tiny"}).status_code == 200
        assert failure(daemon.http.get(f"/v2/{HOME}/manifests/latest")) == (404, "MANIFEST_UNKNOWN")
        assert failure(daemon.http.get(blob_url(b"content"))) == (404, "BLOB_UNKNOWN")


def test_a_second_device_pulls_from_the_first_and_runs_the_model(tmp_path: Path, tiny_gguf: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "first", HEARTH_SHARE="1") as first, running(tmp_path / "second") as second:
        first.create("tiny", tiny_gguf)
        name = f"http://127.0.0.1:{first.port}/library/tiny"
        lines = second.lines("/api/pull", model=name, insecure=True)
        assert lines[-1] == {"status": "success"}, lines
        (theirs,) = first.http.get("/api/tags").json()["models"]
        (ours,) = second.http.get("/api/tags").json()["models"]
        assert ours["digest"] == theirs["digest"]
        answer = second.post("/api/generate", model=ours["name"], prompt="x", stream=False, options={"num_predict": 2})
        assert answer.json()["eval_count"] == 2


def test_a_device_that_does_not_share_is_a_clear_error(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "first") as first, running(tmp_path / "second") as second:
        lines = second.lines("/api/pull", model=f"http://127.0.0.1:{first.port}/library/tiny", insecure=True)
    assert "pull model manifest" in lines[-1]["error"]
