"""Uploads through the real transfer process: to docker-registry, and to a registry that does what that cannot."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hearthd.transfer import messages
from hearthd.transfer.messages import Drop, Failed, Finished, Moved, Repository, SendBlob, SendManifest, Settings
from tests.e2e.daemon import eventually
from tests.registries.certificate import self_signed
from tests.registries.docker import MANIFEST_TYPE, PASSWORD, USER, DockerRegistry, docker_registry
from tests.registries.proxy import Proxy, proxy
from tests.registries.sender import Sender, moves, sender
from tests.registries.uploads import Reply, UploadRegistry, upload_registry

MIB = 1 << 20
PART = 16 * MIB
SLACK = 64 << 10  # bytes of requests without a body
SETTINGS = Settings(version="0", backoff_s=0.02, num_retries=3)


class Blob:
    """A file with its digest."""

    def __init__(self, path: Path, size: int, seed: int = 0) -> None:
        self.path, self.size = path, size
        self.data = random.Random(seed).randbytes(size)
        self.digest = "sha256:" + hashlib.sha256(self.data).hexdigest()
        path.write_bytes(self.data)

    def job(self, host: str, path: str = "library/new", **fields: object) -> SendBlob:
        """An order to send it."""
        job = SendBlob(
            id=1,
            repository=Repository(host=host, path=path, plain=True),
            digest=self.digest,
            size=self.size,
            path=str(self.path),
            state=f"{self.path}-upload",
        )
        return msgspec.structs.replace(job, **fields)

    @property
    def state(self) -> Path:
        return Path(f"{self.path}-upload")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("docker")) as running:
        yield running


@pytest.fixture
def line(registry: DockerRegistry) -> Iterator[Proxy]:
    with proxy(registry.port) as carrying:
        yield carrying


@pytest.fixture(scope="module")
def process() -> Iterator[Sender]:
    """One for all tests that do not end it."""
    with sender(SETTINGS) as running:
        yield running


@pytest.fixture
def fake() -> Iterator[UploadRegistry]:
    with upload_registry() as running:
        yield running


@pytest.fixture
def small(tmp_path: Path) -> Blob:
    return Blob(tmp_path / "small", 1000)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Blob:
    """Two and a half parts."""
    return Blob(tmp_path_factory.mktemp("large") / "large", 40 * MIB)


@pytest.fixture(autouse=True)
def no_state(large: Blob) -> None:
    large.state.unlink(missing_ok=True)


def finish(process: Sender, job: SendBlob | SendManifest) -> list[int]:
    """Does the job, which must succeed; how far it said it was."""
    answers = process.do(job)
    assert isinstance(answers[-1], Finished), answers[-1]
    return moves(answers)


def fail(process: Sender, job: SendBlob | SendManifest) -> Failed:
    """Does the job, which must fail."""
    failed = process.do(job)[-1]
    assert isinstance(failed, Failed), failed
    return failed


# docker-registry


def test_blob_of_several_parts_arrives_whole(registry: DockerRegistry, process: Sender, large: Blob) -> None:
    moved = finish(process, large.job(registry.host, "library/parts"))
    assert registry.blob("library/parts", large.digest) == large.data
    assert moved == sorted(moved)
    assert moved[-1] == large.size
    assert registry.requests("PATCH", "library/parts") == 3
    assert not large.state.exists()


def test_empty_blob_arrives(registry: DockerRegistry, process: Sender, tmp_path: Path) -> None:
    empty = Blob(tmp_path / "empty", 0)
    finish(process, empty.job(registry.host, "library/empty"))
    assert registry.blob("library/empty", empty.digest) == b""


def test_blob_that_is_there_is_not_sent(
    registry: DockerRegistry, line: Proxy, process: Sender, small: Blob, tmp_path: Path
) -> None:
    blob = Blob(tmp_path / "there", 1 * MIB, seed=1)
    registry.put_blob("library/there", blob.data)
    assert finish(process, blob.job(line.host, "library/there")) == [blob.size]
    assert line.num_sent_bytes < SLACK


def test_blob_of_another_repository_is_mounted(
    registry: DockerRegistry, line: Proxy, process: Sender, tmp_path: Path
) -> None:
    blob = Blob(tmp_path / "mounted", 1 * MIB, seed=2)
    registry.put_blob("library/parent", blob.data)
    finish(process, blob.job(line.host, "library/child", mount_from="library/parent"))
    assert registry.blob("library/child", blob.digest) == blob.data
    assert line.num_sent_bytes < SLACK


def test_blob_that_the_other_repository_lacks_is_sent(registry: DockerRegistry, process: Sender, small: Blob) -> None:
    finish(process, small.job(registry.host, "library/orphan", mount_from="library/nobody"))
    assert registry.blob("library/orphan", small.digest) == small.data


def test_upload_killed_between_parts_goes_on_with_the_next_part(
    registry: DockerRegistry, line: Proxy, large: Blob
) -> None:
    job = large.job(line.host, "library/killed")
    line.hold_request("PATCH", 3)
    with sender(SETTINGS) as killed:
        killed.order(job)
        assert line.held.wait(60)
        killed.kill()
    line.cut()
    line.let_go()
    before = line.num_sent_bytes
    with sender(SETTINGS) as process:
        finish(process, job)
    assert line.num_sent_bytes - before < large.size - 2 * PART + SLACK
    assert registry.blob("library/killed", large.digest) == large.data
    assert not large.state.exists()


def test_upload_killed_inside_a_part_completes(registry: DockerRegistry, large: Blob) -> None:
    job = large.job(registry.host, "library/torn")
    with sender(msgspec.structs.replace(SETTINGS, max_rate=24 * MIB)) as killed:
        killed.order(job)
        next(move for move in killed.answers() if isinstance(move, Moved) and move.completed > PART + 2 * MIB)
        killed.kill()
    assert large.state.exists()
    with sender(SETTINGS) as process:
        finish(process, job)
    assert registry.blob("library/torn", large.digest) == large.data


def test_registry_that_restarts_between_parts_gets_only_the_rest(
    registry: DockerRegistry, line: Proxy, process: Sender, large: Blob
) -> None:
    line.hold_request("PATCH", 2)
    process.order(large.job(line.host, "library/restarted"))
    assert line.held.wait(60)
    registry.stop()
    registry.start()
    line.cut()
    line.let_go()
    assert isinstance(list(process.answers())[-1], Finished)
    assert registry.blob("library/restarted", large.digest) == large.data
    assert line.num_sent_bytes < large.size + PART / 2  # what was on the line when it was cut


def test_line_that_breaks_inside_a_part_is_survived(
    registry: DockerRegistry, line: Proxy, process: Sender, large: Blob
) -> None:
    line.cut_after(PART + 3 * MIB)
    finish(process, large.job(line.host, "library/broken"))
    assert registry.blob("library/broken", large.digest) == large.data


def test_damaged_file_is_told_from_a_registry_that_errs(registry: DockerRegistry, process: Sender, small: Blob) -> None:
    small.path.write_bytes(bytes(1000))
    failed = fail(process, small.job(registry.host, "library/damaged"))
    assert failed.reason == messages.MISMATCH
    assert str(small.path) in failed.error


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("locked"), htpasswd=True) as running:
        yield running


def credentials(path: Path, host: str, password: str) -> str:
    """A Docker config.json with a login to the host."""
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": login}}}))
    return str(path)


def test_credentials_open_a_locked_registry(locked: DockerRegistry, small: Blob, tmp_path: Path) -> None:
    path = credentials(tmp_path / "config.json", locked.host, PASSWORD)
    with sender(msgspec.structs.replace(SETTINGS, credentials=path)) as process:
        finish(process, small.job(locked.host))
    assert locked.blob("library/new", small.digest) == small.data


@pytest.mark.parametrize("password", ["wrong pass", None])
def test_registry_that_does_not_let_us_is_named_and_the_password_is_not(
    locked: DockerRegistry, small: Blob, tmp_path: Path, password: str | None
) -> None:
    path = credentials(tmp_path / "config.json", locked.host, password) if password else ""
    with sender(msgspec.structs.replace(SETTINGS, credentials=path)) as process:
        failed = fail(process, small.job(locked.host, "library/locked"))
        errors = process.close()
    assert (failed.reason, failed.status) == (messages.UNAUTHORIZED, 401)
    assert failed.error.startswith("unauthorized: access denied")
    assert locked.host in failed.error
    assert failed.error.endswith("a push needs the right to write")
    assert "wrong pass" not in failed.error + errors


# a registry that keeps what it got of a broken part


def test_part_that_broke_goes_on_where_the_registry_is(fake: UploadRegistry, process: Sender, large: Blob) -> None:
    fake.cut_after = 5 * MIB
    finish(process, large.job(fake.host))
    assert fake.blobs[large.digest] == large.data
    starts = [seen.headers["content-range"].partition("-")[0] for seen in fake.requests("PATCH")]
    assert starts == [str(offset) for offset in (0, 5 * MIB, 5 * MIB + PART, 5 * MIB + 2 * PART)]


def test_killed_upload_sends_no_byte_twice(fake: UploadRegistry, large: Blob) -> None:
    job = large.job(fake.host)
    with sender(msgspec.structs.replace(SETTINGS, max_rate=24 * MIB)) as killed:
        killed.order(job)
        next(move for move in killed.answers() if isinstance(move, Moved) and move.completed > PART + 2 * MIB)
        killed.kill()
    eventually(lambda: fake.num_open == 0, "the registry saw the line break")
    with sender(SETTINGS) as process:
        finish(process, job)
    assert fake.blobs[large.digest] == large.data
    assert sum(seen.num_body_bytes for seen in fake.requests("PATCH")) == large.size
    assert len(fake.requests("POST")) == 1


def test_dropped_upload_is_resumed(fake: UploadRegistry, large: Blob) -> None:
    with sender(msgspec.structs.replace(SETTINGS, max_rate=24 * MIB)) as process:
        process.order(large.job(fake.host))
        next(move for move in process.answers() if isinstance(move, Moved) and move.completed > PART + 2 * MIB)
        process.order(Drop(id=1))
        failed = list(process.answers())[-1]
        assert isinstance(failed, Failed)
        assert failed.reason == messages.DROPPED
        eventually(lambda: fake.num_open == 0, "the registry saw the line break")
        finish(process, large.job(fake.host))
    assert fake.blobs[large.digest] == large.data
    assert len(fake.requests("POST")) == 1


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("upload_location", [True, False])
def test_upload_follows_the_location_that_the_registry_names(
    process: Sender, large: Blob, relative: bool, upload_location: bool
) -> None:
    with upload_registry(relative=relative, upload_location=upload_location) as fake:
        finish(process, large.job(fake.host))
        assert fake.blobs[large.digest] == large.data


def test_registry_that_never_says_how_far_it_is_gets_everything(process: Sender, large: Blob) -> None:
    with upload_registry() as fake:
        fake.keeps_range = False
        finish(process, large.job(fake.host))
        assert fake.blobs[large.digest] == large.data


def test_larger_parts_are_sent_where_the_registry_asks_for_them(process: Sender, large: Blob) -> None:
    with upload_registry() as fake:
        fake.least_part = 24 * MIB
        finish(process, large.job(fake.host))
        assert [seen.num_body_bytes for seen in fake.requests("PATCH")] == [24 * MIB, 16 * MIB]


@pytest.mark.parametrize(
    "change",
    [
        {"host": "localhost:1"},
        {"path": "library/other"},
        {"digest": "sha256:" + "0" * 64},
        {"offset": -1},
        {"offset": 1 << 40},
        {"part_bytes": 0},
        {"location": 7},
    ],
)
def test_state_that_is_not_of_this_upload_is_left_aside(
    fake: UploadRegistry, process: Sender, small: Blob, change: dict[str, object]
) -> None:
    uuid = fake.begin()
    state = {
        "host": fake.host,
        "path": "library/new",
        "digest": small.digest,
        "size": small.size,
        "location": f"http://{fake.host}/v2/library/new/blobs/uploads/{uuid}",
        "part_bytes": PART,
        "offset": 10,
    }
    small.state.write_text(json.dumps(state | change))
    finish(process, small.job(fake.host))
    assert fake.requests("GET") == []
    assert fake.blobs[small.digest] == small.data


@pytest.mark.parametrize("torn", [b"", b"{", b"\xff\xfe", b"[]"])
def test_torn_state_is_left_aside(fake: UploadRegistry, process: Sender, small: Blob, torn: bytes) -> None:
    small.state.write_bytes(torn)
    finish(process, small.job(fake.host))
    assert fake.blobs[small.digest] == small.data
    assert not small.state.exists()


def test_state_that_cannot_be_written_stops_no_upload(fake: UploadRegistry, small: Blob) -> None:
    with sender(SETTINGS) as process:
        finish(process, small.job(fake.host, state=f"{small.path}/not/a/directory"))
        errors = process.close()
    assert fake.blobs[small.digest] == small.data
    assert "would begin anew" in errors


# TLS


def test_registry_that_does_not_know_of_its_tls_gets_the_upload_by_https(
    process: Sender, small: Blob, tmp_path: Path
) -> None:
    with upload_registry(tls=self_signed(tmp_path)) as fake:
        repository = Repository(host=fake.host, path="library/new", insecure=True)
        finish(process, small.job(fake.host, repository=repository))
        assert fake.blobs[small.digest] == small.data


def test_upload_that_would_go_on_in_the_clear_is_refused(process: Sender, small: Blob, tmp_path: Path) -> None:
    with upload_registry(tls=self_signed(tmp_path)) as fake:
        fake.replies.append(Reply("POST", 202, headers={"Location": "http://127.0.0.1:1/upload"}))
        repository = Repository(host=fake.host, path="library/new", insecure=True)
        failed = fail(process, small.job(fake.host, repository=repository))
    assert "the upload would go on at 127.0.0.1:1 by http, which is refused" in failed.error


def test_certificate_that_nobody_vouches_for_is_refused(process: Sender, small: Blob, tmp_path: Path) -> None:
    with upload_registry(tls=self_signed(tmp_path)) as fake:
        failed = fail(process, small.job(fake.host, repository=Repository(host=fake.host, path="library/new")))
    assert "its certificate is not valid" in failed.error
    assert fake.seen == []


# parts that go to a store behind the registry


def test_redirected_parts_go_to_the_store_without_authorization(process: Sender, large: Blob) -> None:
    with upload_registry(redirects=True) as fake:
        finish(process, large.job(fake.host))
        assert fake.blobs[large.digest] == large.data  # it checked the sum of sums, too
        assert [seen.num_body_bytes for seen in fake.seen_by_target] == [PART, PART, 8 * MIB]
        assert all("authorization" not in seen.headers for seen in fake.seen_by_target)
        assert all(seen.headers["x-redirect-uploads"] == "1" for seen in fake.requests("PATCH"))


def test_store_behind_the_registry_that_fails_for_a_moment_is_asked_again(process: Sender, large: Blob) -> None:
    with upload_registry(redirects=True) as fake:
        fake.replies += [Reply("TARGET", 503), Reply("TARGET", 500)]
        finish(process, large.job(fake.host))
        assert fake.blobs[large.digest] == large.data
        assert len(fake.requests("PATCH")) == 3


def test_killed_upload_by_redirected_parts_goes_on_with_the_next_part(large: Blob) -> None:
    with upload_registry(redirects=True) as fake:
        job = large.job(fake.host)
        with sender(msgspec.structs.replace(SETTINGS, max_rate=24 * MIB)) as killed:
            killed.order(job)
            next(move for move in killed.answers() if isinstance(move, Moved) and move.completed > PART + 2 * MIB)
            killed.kill()
        eventually(lambda: fake.num_open == 0, "the store saw the line break")
        before = len(fake.seen_by_target)
        with sender(SETTINGS) as process:
            finish(process, job)
        assert fake.blobs[large.digest] == large.data
        assert len(fake.seen_by_target) - before == 2


# registries that refuse


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_failure_of_a_moment_is_tried_again(fake: UploadRegistry, process: Sender, small: Blob, method: str) -> None:
    fake.replies += [Reply(method, 503), Reply(method, 429, headers={"Retry-After": "1"}), Reply(method, 500)]
    finish(process, small.job(fake.host))
    assert fake.blobs[small.digest] == small.data


def test_failure_that_lasts_names_registry_and_answer(fake: UploadRegistry, process: Sender, small: Blob) -> None:
    fake.replies += [Reply("PATCH", 502, b"bad gateway")] * (SETTINGS.num_retries + 1)
    failed = fail(process, small.job(fake.host))
    assert failed.status == 502
    assert failed.error.startswith(f"push blob {small.digest[7:19]} to {fake.host}/library/new: ")
    assert "502: bad gateway" in failed.error
    assert len(fake.requests("PATCH")) == SETTINGS.num_retries + 1


@pytest.mark.parametrize("status", [400, 405, 413, 501, 507])
@pytest.mark.parametrize("reads_body", [True, False])
def test_refused_part_fails_at_once_with_the_registrys_words(
    fake: UploadRegistry, process: Sender, large: Blob, status: int, reads_body: bool
) -> None:
    body = json.dumps({"errors": [{"code": "SIZE_INVALID", "message": "too\nlarge" + "!" * 3000}]}).encode()
    fake.replies.append(Reply("PATCH", status, body, reads_body=reads_body))
    failed = fail(process, large.job(fake.host))
    assert failed.status == status
    assert f"{status}: too large!!!" in failed.error
    assert len(failed.error) < 700
    assert len(fake.requests("PATCH")) == 1


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_registry_that_forbids_is_quoted(fake: UploadRegistry, process: Sender, small: Blob, method: str) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"this namespace is not yours"}]}'
    fake.replies.append(Reply(method, 403, b"" if method == "HEAD" else body))
    failed = fail(process, small.job(fake.host))
    assert (failed.reason, failed.status) == (messages.UNAUTHORIZED, 403)
    assert failed.error.startswith("unauthorized: access denied; ")
    assert failed.error.endswith("a push needs the right to write")
    assert method == "HEAD" or "this namespace is not yours" in failed.error


def test_upload_that_the_registry_lost_begins_anew(fake: UploadRegistry, process: Sender, large: Blob) -> None:
    gone = b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'
    fake.replies += [Reply("PATCH", 404, gone), Reply("GET", 404, gone)]
    finish(process, large.job(fake.host))
    assert fake.blobs[large.digest] == large.data
    assert len(fake.requests("POST")) == 2


def test_blob_refused_at_the_end_is_sent_once_more_and_then_given_up(
    fake: UploadRegistry, process: Sender, small: Blob
) -> None:
    wrong = b'{"errors":[{"code":"DIGEST_INVALID","message":"digest does not match"}]}'
    fake.replies += [Reply("PUT", 400, wrong), Reply("PUT", 400, wrong)]
    failed = fail(process, small.job(fake.host))
    assert "digest does not match" in failed.error
    assert len(fake.requests("PATCH")) == 2


def test_blob_refused_once_at_the_end_arrives(fake: UploadRegistry, process: Sender, small: Blob) -> None:
    fake.replies.append(Reply("PUT", 400, b"digest does not match"))
    finish(process, small.job(fake.host))
    assert fake.blobs[small.digest] == small.data


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "does not say where it goes on"),
        ({"Location": "ftp://localhost/upload"}, "by ftp, which is refused"),
        ({"Location": "http://[broken"}, "at no usable address"),
    ],
)
def test_registry_without_a_usable_location_is_refused(
    fake: UploadRegistry, process: Sender, small: Blob, headers: dict[str, str], text: str
) -> None:
    fake.replies.append(Reply("POST", 202, headers=headers))
    assert text in fail(process, small.job(fake.host)).error


def test_redirected_beginning_is_refused_naming_the_target(fake: UploadRegistry, process: Sender, small: Blob) -> None:
    fake.replies.append(Reply("POST", 301, headers={"Location": "http://elsewhere/v2/"}))
    assert "redirects to http://elsewhere/v2/" in fail(process, small.job(fake.host)).error


def test_nobody_listening_is_an_error_that_names_the_registry(process: Sender, small: Blob) -> None:
    with upload_registry() as gone:
        host = gone.host
    failed = fail(process, small.job(host))
    assert f"cannot reach {host}" in failed.error
    assert failed.status == 0


def test_line_that_takes_no_byte_is_given_up(registry: DockerRegistry, line: Proxy, large: Blob) -> None:
    line.hold_request("PATCH", 1)
    with sender(msgspec.structs.replace(SETTINGS, stall_timeout_s=0.5, num_retries=0)) as process:
        failed = fail(process, large.job(line.host, "library/stalled"))
    assert f"{line.host} took no byte for 0.5 s" in failed.error


# the file


def test_missing_file_is_named(fake: UploadRegistry, process: Sender, small: Blob) -> None:
    small.path.unlink()
    assert f"cannot read {small.path}: No such file" in fail(process, small.job(fake.host)).error


def test_file_of_another_size_is_refused_saying_both(fake: UploadRegistry, process: Sender, small: Blob) -> None:
    failed = fail(process, small.job(fake.host, size=999))
    assert f"{small.path} has 1000 bytes, but the manifest says 999" in failed.error
    assert fake.seen == []


def test_file_that_shrinks_while_it_is_sent_is_named(fake: UploadRegistry, large: Blob, tmp_path: Path) -> None:
    blob = Blob(tmp_path / "shrinking", 8 * MIB)
    with sender(msgspec.structs.replace(SETTINGS, max_rate=4 * MIB)) as process:
        process.order(blob.job(fake.host))
        next(move for move in process.answers() if isinstance(move, Moved) and move.completed)
        os.truncate(blob.path, 0)
        failed = list(process.answers())[-1]
    assert isinstance(failed, Failed)
    assert f"{blob.path} became shorter" in failed.error


def test_rate_bounds_an_upload(fake: UploadRegistry, tmp_path: Path) -> None:
    blob = Blob(tmp_path / "slow", 1 * MIB)
    with sender(msgspec.structs.replace(SETTINGS, max_rate=1 * MIB)) as process:
        started = time.monotonic()
        finish(process, blob.job(fake.host))
        assert time.monotonic() - started > 0.8  # a bound from below: no machine is too slow for it


# manifests


def manifest(blob: Blob) -> bytes:
    """A manifest of that blob alone, spaced in its own way."""
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": blob.digest, "size": blob.size}
    config = layer | {"mediaType": "application/vnd.docker.container.image.v1+json"}
    fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer]}
    return json.dumps(fields, indent=7).encode()


def manifest_job(host: str, data: bytes, path: str = "library/new") -> SendManifest:
    repository = Repository(host=host, path=path, plain=True)
    return SendManifest(id=2, repository=repository, reference="latest", data=data, media_type=MANIFEST_TYPE)


def test_manifest_arrives_byte_for_byte(registry: DockerRegistry, process: Sender, small: Blob) -> None:
    finish(process, small.job(registry.host, "library/whole"))
    finish(process, manifest_job(registry.host, manifest(small), "library/whole"))
    assert registry.manifest("library/whole", "latest") == manifest(small)


def test_manifest_of_a_missing_blob_is_refused_with_the_registrys_words(
    registry: DockerRegistry, process: Sender, small: Blob
) -> None:
    failed = fail(process, manifest_job(registry.host, manifest(small), "library/nothing"))
    assert failed.error.startswith(f"push manifest latest to {registry.host}/library/nothing: ")
    assert failed.status in (400, 404)
    assert "blob unknown" in failed.error


def test_manifest_that_was_stored_as_something_else_is_an_error(
    fake: UploadRegistry, process: Sender, small: Blob
) -> None:
    fake.manifest_digest = "sha256:" + "0" * 64
    failed = fail(process, manifest_job(fake.host, manifest(small)))
    assert f"the registry stored {fake.manifest_digest}" in failed.error


def test_manifest_is_sent_again_after_a_failure_of_a_moment(fake: UploadRegistry, process: Sender, small: Blob) -> None:
    fake.replies.append(Reply("PUT", 500))
    finish(process, manifest_job(fake.host, manifest(small)))
    assert fake.manifests == {"/v2/library/new/manifests/latest": (MANIFEST_TYPE, manifest(small))}
