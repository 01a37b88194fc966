"""Small files of the hub, which git's digest vouches for, fetched by the real process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hearthd.transfer.messages import (
    MISMATCH,
    NO_SPACE,
    NOT_FOUND,
    UNAUTHORIZED,
    FetchFile,
    Finished,
    HubFile,
    Repository,
)
from tests.hearthd.transfer.fetching import failure, names, random_bytes, settings
from tests.registries.hub import Hub, blob_id, loopback_hub
from tests.registries.misbehaving import Fault, Handler, Range, digest_of, moved, reset, status, truncated
from tests.registries.sender import Sender, moves, sender

NAME = "tokenizer.json"
DATA = random_bytes(300_000)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def published(hub: Hub) -> None:
    hub.blobs.clear()
    hub.seen.clear()
    hub.publish("a/b", {NAME: DATA, "odd name & more/50%.json": b"{}"})


@pytest.fixture(scope="module")
def process(hub: Hub) -> Iterator[Sender]:
    """A transfer process that takes the hub on loopback for the hub."""
    with sender(settings(), HF_ENDPOINT=f"http://{hub.host}", HF_TOKEN="hf_secret") as process:
        yield process


def order(hub: Hub, directory: Path, **fields: Any) -> FetchFile:
    """The order to fetch the file."""
    usual: dict[str, Any] = {
        "id": 1,
        "repository": Repository(host="hf.co", path="a/b"),
        "file": HubFile(commit=hub.repositories["a/b"].commit, name=NAME),
        "blob_id": blob_id(DATA),
        "size": len(DATA),
        "directory": str(directory),
    }
    return FetchFile(**usual | fields)


def chunked(body: bytes) -> Fault:
    """Another body, whose length is not told beforehand."""

    def fault(handler: Handler, part: Range) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    return fault


def test_a_file_becomes_a_blob_and_its_digest_is_told(hub: Hub, process: Sender, directory: Path) -> None:
    answers = process.do(order(hub, directory))
    assert answers[-1] == Finished(1, digest_of(DATA).encode())
    assert moves(answers)[-1] == len(DATA)
    assert names(directory) == ["sha256-<hex>"]
    assert (directory / digest_of(DATA).replace(":", "-")).read_bytes() == DATA


def test_a_name_with_signs_of_urls_is_asked_for_as_it_is(hub: Hub, process: Sender, directory: Path) -> None:
    name = "odd name & more/50%.json"
    file = HubFile(commit=hub.repositories["a/b"].commit, name=name)
    answers = process.do(order(hub, directory, file=file, size=2, blob_id=blob_id(b"{}")))
    assert answers[-1] == Finished(1, digest_of(b"{}").encode())


def test_an_empty_file_is_a_blob_too(hub: Hub, process: Sender, directory: Path) -> None:
    hub.publish("a/b", {NAME: b""})
    answers = process.do(order(hub, directory, size=0, blob_id=blob_id(b"")))
    assert answers[-1] == Finished(1, digest_of(b"").encode())


def test_broken_connections_are_made_anew(hub: Hub, process: Sender, directory: Path) -> None:
    hub.blob("a/b", NAME).faults = [truncated(1000), reset(70_000), status(503)]
    assert process.do(order(hub, directory))[-1] == Finished(1, digest_of(DATA).encode())


def test_a_file_that_never_comes_whole_is_given_up(hub: Hub, process: Sender, directory: Path) -> None:
    hub.blob("a/b", NAME).faults = [chunked(DATA[:-10])] * 9
    failed = failure(process.do(order(hub, directory)))
    assert f"ended its answer after {len(DATA) - 10} of {len(DATA)} bytes" in failed.error
    assert names(directory) == []


def test_more_bytes_than_listed_are_refused(hub: Hub, process: Sender, directory: Path) -> None:
    hub.blob("a/b", NAME).faults = [chunked(DATA + bytes(1 << 20))]
    failed = failure(process.do(order(hub, directory)))
    assert (failed.reason, names(directory)) == (MISMATCH, [])
    assert f"sends more than its {len(DATA)} bytes" in failed.error


def test_other_content_than_listed_is_refused(hub: Hub, process: Sender, directory: Path) -> None:
    failed = failure(process.do(order(hub, directory, blob_id="0" * 40)))
    assert (failed.reason, names(directory)) == (MISMATCH, [])
    assert f"git's id {blob_id(DATA)}, not {'0' * 40}" in failed.error


@pytest.mark.parametrize("fields", [{"size": 1 << 40}, {"size": -1}, {"blob_id": "../x"}])
def test_an_order_that_no_listing_gives_is_refused(
    hub: Hub, process: Sender, directory: Path, fields: dict[str, Any]
) -> None:
    assert "cannot be fetched" in failure(process.do(order(hub, directory, **fields))).error
    assert hub.seen == []


def test_a_file_that_is_gone_is_named(hub: Hub, process: Sender, directory: Path) -> None:
    file = HubFile(commit="0" * 40, name=NAME)
    failed = failure(process.do(order(hub, directory, file=file)))
    assert (failed.reason, failed.error) == (NOT_FOUND, f"{NAME} is not in hf.co/a/b")


def test_a_gated_file_names_the_token_and_what_to_do(hub: Hub, process: Sender, directory: Path) -> None:
    hub.repositories["a/b"].gated = True
    failed = failure(process.do(order(hub, directory)))
    assert failed.reason == UNAUTHORIZED
    assert "HF_TOKEN may not read it; accept its conditions on https://huggingface.co/a/b" in failed.error
    assert "hf_secret" not in failed.error


def test_the_token_does_not_follow_to_another_host(hub: Hub, process: Sender, directory: Path) -> None:
    location = f"http://{hub.content_host}/{digest_of(DATA)}"
    hub.blob("a/b", NAME).faults = [moved(location)]
    assert process.do(order(hub, directory))[-1] == Finished(1, digest_of(DATA).encode())
    assert {seen.authorization for seen in hub.seen if seen.content_host} == {""}
    assert {seen.authorization for seen in hub.seen if not seen.content_host} == {"Bearer hf_secret"}


def test_a_full_disk_is_told_and_nothing_is_left(hub: Hub, process: Sender, tmp_path: Path) -> None:
    mount, at = shutil.which("mount"), tmp_path / "disk"
    at.mkdir()
    options = ("-t", "tmpfs", "-o", "size=100k", "none", str(at))
    if mount is None or os.geteuid() or subprocess.run([mount, *options]).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        failed = failure(process.do(order(hub, at)))
        assert (failed.reason, names(at)) == (NO_SPACE, [])
    finally:
        subprocess.run(["umount", at], check=True)
