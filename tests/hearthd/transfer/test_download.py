"""Blobs fetched by the real process from a registry that misbehaves."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.transfer.messages import (
    DROPPED,
    FAILED,
    MISMATCH,
    NO_SPACE,
    NOT_FOUND,
    UNAUTHORIZED,
    Drop,
    Failed,
    FetchBlob,
    Finished,
    Moved,
)
from tests.hearthd.transfer.fetching import (
    MIB,
    PART_BYTES,
    Processes,
    blob_order,
    failure,
    names,
    random_bytes,
    settings,
)
from tests.registries.misbehaving import (
    Fault,
    MisbehavingRegistry,
    corrupted,
    encoded,
    endless,
    moved,
    no_range,
    reset,
    short,
    silent,
    stalled,
    status,
    truncated,
    whole,
    wrong_length,
    wrong_range,
    wrong_total,
)
from tests.registries.sender import Sender, moves, sender

UNREACHED = 1 << 40  # bytes a second: bounded, though no line is so fast


DATA = random_bytes(3 * PART_BYTES + 12_345)
UNFINISHED = ["sha256-<hex>-partial", "sha256-<hex>-partial.journal"]
OTHER = "0" * 64


@pytest.fixture(scope="module", params=[0, UNREACHED], ids=["past the event loop", "through the event loop"])
def processes(request: pytest.FixtureRequest) -> Iterator[Processes]:
    """Without a bound, plain connections are read by threads of their own; with one, by the event loop."""
    with ExitStack() as stack:
        yield Processes(stack, max_rate=request.param)


def content(directory: Path, digest: str) -> bytes:
    """The blob; nothing but it is in the directory."""
    assert names(directory) == ["sha256-<hex>"]
    return (directory / digest.replace(":", "-")).read_bytes()


def partial(directory: Path, digest: str, suffix: str = "") -> Path:
    return directory / f"{digest.replace(':', '-')}-partial{suffix}"


def journaled(directory: Path, digest: str) -> list[tuple[int, int]]:
    """The extents of whole lines."""
    path = partial(directory, digest, ".journal")
    lines = path.read_text().split("\n")[1:-1] if path.exists() else []
    pairs = [(int(offset), int(length)) for offset, length in (line.split() for line in lines)]
    return [(offset, offset + length) for offset, length in pairs]


def overlap(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> int:
    """Bytes that are in both."""
    return sum(max(0, min(a_end, b_end) - max(a, b)) for a, a_end in ours for b, b_end in theirs)


def run_until(process: Sender, order: FetchBlob, num_bytes: int) -> int:
    """Starts the job; returns once so many bytes are there, with what it said."""
    process.order(order)
    for answer in process.answers():
        assert isinstance(answer, Moved), answer
        if answer.completed >= num_bytes:
            return answer.completed
    raise AssertionError("the job ended early")


# -- arriving ----------------------------------------------------------------------------------------------------------


def test_blob_arrives_whole_under_its_own_name(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA)
    answers = process.do(blob_order(registry, digest, directory))
    assert answers[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert registry.num_bytes(digest) == len(DATA)
    assert process.close() == ""


def test_progress_only_grows_and_ends_at_the_size(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, bytes_per_s=20 * MIB)
    done = moves(process.do(blob_order(registry, digest, directory)))
    assert done == sorted(done)
    assert (len(done) > 3, done[-1]) == (True, len(DATA))


def test_parts_are_asked_for_from_the_front(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA)
    process.do(blob_order(registry, digest, directory))
    starts = [int(re.findall(r"\d+", seen.range)[0]) for seen in registry.seen]
    assert sorted(starts) == [0, PART_BYTES, 2 * PART_BYTES, 3 * PART_BYTES]
    assert starts[0] == 0


def test_requests_say_who_asks(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    process.do(blob_order(registry, registry.add(b"small"), directory))
    (seen,) = registry.seen
    assert re.fullmatch(rf"hearth/1\.2\.3 \({os.uname().machine} linux\) Python/3\.\d+\.\d+", seen.agent)


def test_blob_that_is_here_is_not_asked_for(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(b"here")
    (directory / digest.replace(":", "-")).write_bytes(b"here")
    answers = process.do(blob_order(registry, digest, directory))
    assert (answers[-1], moves(answers), registry.seen) == (Finished(1), [4], [])


def test_blob_without_bytes_needs_no_request(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(b"")
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert (content(directory, digest), registry.seen) == (b"", [])


def test_several_blobs_arrive_side_by_side(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digests = [registry.add(random_bytes(MIB, seed)) for seed in range(4)]
    for number, digest in enumerate(digests):
        process.order(blob_order(registry, digest, directory, id=number))
    ends = [next(answer for answer in process.answers() if isinstance(answer, Finished | Failed)) for _ in digests]
    assert {end.id for end in ends} == {0, 1, 2, 3}
    assert all(isinstance(end, Finished) for end in ends)
    assert names(directory) == ["sha256-<hex>"] * 4


def test_limit_holds_for_all_jobs_together(registry: MisbehavingRegistry, directory: Path) -> None:
    digests = [registry.add(random_bytes(MIB, seed)) for seed in range(2)]
    started_s = time.monotonic()
    with sender(settings(max_rate=2 * MIB)) as process:
        for number, digest in enumerate(digests):
            process.order(blob_order(registry, digest, directory, id=number))
        for _ in digests:
            assert isinstance(list(process.answers())[-1], Finished)
    assert time.monotonic() - started_s >= 0.9


# -- redirects ---------------------------------------------------------------------------------------------------------


def test_target_of_a_redirect_serves_all_ranges(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, redirect=True)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert [seen.content_host for seen in registry.seen].count(False) == 1


def test_address_that_expires_is_asked_for_again(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, redirect=True, expires_after=2)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert [seen.content_host for seen in registry.seen].count(False) >= 2


def test_address_that_never_works_is_an_error_at_once(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, redirect=True, faults=[status(403, "wrong signature")])
    failed = failure(process.do(blob_order(registry, digest, directory)))
    assert f"from {registry.content_host}: 403: wrong signature" in failed.error
    assert (failed.status, len(registry.seen), names(directory)) == (403, 2, [])


def test_redirects_in_a_circle_are_refused(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA)
    registry.blobs[digest].faults = [moved(f"/v2/library/tiny/blobs/{digest}")] * 50
    failed = failure(process.do(blob_order(registry, digest, directory)))
    assert f"{registry.host} redirects more than 5 times" in failed.error
    assert len(registry.seen) == 6


@pytest.mark.parametrize("location", ["", "gopher://example/x", "file:///etc/passwd", "http://[::1/x"])
def test_redirect_to_nowhere_is_refused(
    registry: MisbehavingRegistry, process: Sender, directory: Path, location: str
) -> None:
    digest = registry.add(DATA, faults=[moved(location)])
    failed = failure(process.do(blob_order(registry, digest, directory)))
    assert f"{registry.host} redirects to no usable address" in failed.error


# -- what passes -------------------------------------------------------------------------------------------------------

PASSING: dict[str, Fault] = {
    "503": status(503),
    "500": status(500),
    "408": status(408),
    "425": status(425),
    "429": status(429, Retry_After="0"),
    "429 at a time": status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "truncated": truncated(1_000_000),
    "truncated at once": truncated(0),
    "reset": reset(1_000_000),
    "stalled": stalled(1_000_000),
    "silent": silent,
    "short": short(7),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_failure_of_the_moment_is_overcome(
    registry: MisbehavingRegistry, process: Sender, directory: Path, fault: Fault
) -> None:
    digest = registry.add(DATA, faults=[fault])
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_failure_of_the_moment_behind_a_redirect_is_overcome(
    registry: MisbehavingRegistry, process: Sender, directory: Path, fault: Fault
) -> None:
    digest = registry.add(DATA, redirect=True, faults=[fault])
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA


def test_many_failures_with_progress_between_them_are_overcome(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, faults=[truncated(2 * MIB)] * 12)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA


FINAL = {
    "503": (status(503, "busy"), "503: busy"),
    "silent": (silent, "sent nothing within the time limit"),
    "truncated": (truncated(0), "ended the connection in the middle of an answer"),
}


@pytest.mark.parametrize(("fault", "sentence"), FINAL.values(), ids=FINAL)
def test_failures_in_a_row_without_progress_end_the_job(
    registry: MisbehavingRegistry, directory: Path, fault: Fault, sentence: str
) -> None:
    digest = registry.add(DATA, faults=[fault] * 50)
    with sender(settings(max_streams=1)) as process:
        failed = failure(process.do(blob_order(registry, digest, directory)))
    assert sentence in failed.error
    assert failed.error.endswith("a new pull goes on from there")
    assert len(registry.seen) == 4  # the first try and num_retries


def test_registry_that_is_away_is_named(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA)
    order = blob_order(registry, digest, directory)
    registry.close()
    assert f"cannot reach {registry.host}: " in failure(process.do(order)).error


def test_slow_drip_is_no_stall(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA[:2000], bytes_per_s=1000)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert len(registry.seen) == 1


# -- registries without ranges -----------------------------------------------------------------------------------------


def test_registry_without_ranges_serves_one_stream(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, ranges=False)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert len(registry.seen) == 1


def test_registry_without_ranges_is_resumed_by_skipping(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, ranges=False, faults=[truncated(PART_BYTES + 5), truncated(2 * PART_BYTES)])
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert len(registry.seen) == 3


def test_registry_that_forgets_ranges_midway_still_serves(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, faults=[truncated(MIB), whole, whole, whole, whole])
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA


# -- lies --------------------------------------------------------------------------------------------------------------

LIES = {
    "other range": (wrong_range(5), f"answers with bytes 5-{PART_BYTES + 4} where 0-{PART_BYTES - 1} were asked for"),
    "no range": (no_range, "its Content-Range '' is no range of bytes"),
    "other size": (wrong_total(77), f"the blob has 77 bytes there, and {len(DATA)} by its manifest"),
    "longer": (wrong_length(50 * MIB), f"it sends {50 * MIB} bytes as a range of {PART_BYTES}"),
    "encoded": (encoded, "it sends the blob encoded as gzip"),
    "endless": (endless, f"it sends more than the {PART_BYTES} bytes asked for"),
    "416": (status(416, Content_Range="bytes */77"), f"the blob has 77 bytes there, and {len(DATA)} by its manifest"),
    "400": (status(400, "bad\r\n\x1b[2Jrequest"), "400: bad [2Jrequest"),
}


@pytest.mark.parametrize(("fault", "sentence"), LIES.values(), ids=LIES)
def test_answer_that_cannot_be_right_is_refused(
    registry: MisbehavingRegistry, directory: Path, fault: Fault, sentence: str
) -> None:
    digest = registry.add(DATA, faults=[fault] * 50)
    with sender(settings(max_streams=1)) as process:
        failed = failure(process.do(blob_order(registry, digest, directory)))
    assert sentence in failed.error
    assert digest[7:19] in failed.error
    assert (failed.reason, len(registry.seen)) == (FAILED, 1)
    assert not (directory / digest.replace(":", "-")).exists()


def test_error_in_the_registrys_own_form_is_told_by_its_message(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    body = '{"errors":[{"code":"NAME_INVALID","message":"invalid repository name"}]}'
    digest = registry.add(DATA, faults=[status(400, body)])
    failed = failure(process.do(blob_order(registry, digest, directory)))
    assert failed.error == f"pull blob {digest[7:19]}: 400: invalid repository name"


def test_long_complaint_is_cut(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA, faults=[status(400, "x" * 100_000)])
    assert len(failure(process.do(blob_order(registry, digest, directory))).error) < 400


@pytest.mark.parametrize("ranges", [True, False])
def test_content_that_is_not_its_digests_is_removed(
    registry: MisbehavingRegistry, process: Sender, directory: Path, ranges: bool
) -> None:
    digest = registry.add(DATA, ranges=ranges, faults=[corrupted])
    failed = failure(process.do(blob_order(registry, digest, directory)))
    assert failed.reason == MISMATCH
    assert re.fullmatch(
        rf"digest mismatch, file must be downloaded again: want {digest}, got sha256:[0-9a-f]{{64}}", failed.error
    )
    assert names(directory) == []
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_size_that_the_registry_does_not_share_is_told(
    registry: MisbehavingRegistry, process: Sender, directory: Path, size: int, ranges: bool
) -> None:
    digest = registry.add(DATA, ranges=ranges)
    failed = failure(process.do(blob_order(registry, digest, directory, size=size)))
    assert f"the blob has {len(DATA)} bytes there, and {size} by its manifest" in failed.error
    assert names(directory) == []


def test_blob_that_the_registry_lacks_is_not_found(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    failed = failure(process.do(blob_order(registry, f"sha256:{OTHER}", directory)))
    assert (failed.reason, failed.status) == (NOT_FOUND, 404)
    assert failed.error == f"blob 000000000000 is not in the registry {registry.host}"
    assert names(directory) == []


def test_forbidden_blob_is_told_as_such(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA, faults=[status(403)])
    failed = failure(process.do(blob_order(registry, digest, directory)))
    assert (failed.reason, failed.status) == (UNAUTHORIZED, 403)
    assert f"{registry.host}/library/tiny is private" in failed.error


@pytest.mark.parametrize(
    "fields", [{"digest": "sha256:../../etc/passwd"}, {"digest": ""}, {"size": -1}, {"size": 1 << 62}]
)
def test_order_that_no_blob_can_fulfil_is_refused(
    registry: MisbehavingRegistry, process: Sender, directory: Path, fields: dict[str, Any]
) -> None:
    digest = registry.add(DATA)
    order = msgspec.structs.replace(blob_order(registry, digest, directory), **fields)
    failed = failure(process.do(order))
    assert failed.error.startswith("no blob can have the digest ")
    assert registry.seen == []


# -- going on ----------------------------------------------------------------------------------------------------------


def test_dropped_job_keeps_what_it_has_and_the_next_one_fetches_the_rest(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, bytes_per_s=4 * MIB)
    order = blob_order(registry, digest, directory)
    run_until(process, order, 5 * MIB)
    failed = failure(process.do(Drop(id=1)))
    assert (failed.reason, names(directory)) == (DROPPED, UNFINISHED)
    kept = journaled(directory, digest)
    assert sum(end - start for start, end in kept) >= 5 * MIB
    registry.wait_until_quiet()
    blob = registry.blobs[digest]
    blob.bytes_per_s, blob.served = 0, []
    answers = process.do(order)
    assert answers[-1] == Finished(1)
    assert moves(answers)[0] >= 5 * MIB
    assert content(directory, digest) == DATA
    assert overlap(blob.served, kept) == 0


def test_end_of_input_ends_the_process_and_keeps_what_it_has(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA, bytes_per_s=4 * MIB)
    reached = run_until(process, blob_order(registry, digest, directory), 5 * MIB)
    process.close()
    assert process.process.returncode == 0
    assert sum(end - start for start, end in journaled(directory, digest)) >= reached


KILLS = [1, 2, 3, 5, 8, 11, 14, 18, 22, 26, 30, 34]  # MiB of 48


def test_killed_downloads_go_on_without_fetching_journaled_bytes_again(
    registry: MisbehavingRegistry, directory: Path
) -> None:
    digest = registry.add(DATA, bytes_per_s=6 * MIB)
    blob, num_refetched = registry.blobs[digest], 0
    for num_mib in KILLS:
        kept = journaled(directory, digest)
        blob.served = []
        with sender(settings()) as process:
            run_until(process, blob_order(registry, digest, directory), num_mib * MIB)
            process.kill()
        registry.wait_until_quiet()
        assert names(directory) == UNFINISHED
        num_refetched += overlap(blob.served, kept)
    blob.served, blob.bytes_per_s, kept = [], 0, journaled(directory, digest)
    with sender(settings()) as process:
        assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert num_refetched + overlap(blob.served, kept) == 0
    print(f"killed {len(KILLS)} times; {sum(end - start for start, end in kept)} bytes were there at the end")


def prepare(directory: Path, digest: str, journal: bytes, num_bytes: int = len(DATA)) -> None:
    """An unfinished file with all bytes, and what its journal says of them."""
    partial(directory, digest).write_bytes(DATA[:num_bytes])
    partial(directory, digest, ".journal").write_bytes(journal)


TOTAL = b"total %d\n" % len(DATA)
JOURNALS = {
    "one extent": (TOTAL + b"0 1000\n", 1000),
    "extents that overlap": (TOTAL + b"0 1000\n500 1000\n", 1500),
    "torn last line": (TOTAL + b"0 1000\n1000 50", 1000),
    "garbage": (TOTAL + b"0 1000\n\0\0\0\0\n1000 50\n", 1000),
    "negative": (TOTAL + b"0 1000\n-5 50\n", 1000),
    "another total": (b"total 77\n0 1000\n", 0),
    "no total": (b"0 1000\n", 0),
    "empty": (b"", 0),
    "beyond the end": (TOTAL + b"0 1000\n%d 5000\n" % (len(DATA) - 10), 1010),
    "huge": (TOTAL + b"0 1000\n" + b"9" * 30 + b" 1\n", 1000),
}


@pytest.mark.parametrize(("journal", "num_here"), JOURNALS.values(), ids=JOURNALS)
def test_journal_is_believed_as_far_as_it_is_sound(
    registry: MisbehavingRegistry, process: Sender, directory: Path, journal: bytes, num_here: int
) -> None:
    digest = registry.add(DATA)
    prepare(directory, digest, journal)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert registry.num_bytes(digest) == len(DATA) - num_here


def test_journal_of_bytes_that_the_file_lacks_is_not_believed(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA)
    prepare(directory, digest, TOTAL + b"0 5000\n", num_bytes=1000)
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA


def test_complete_unfinished_file_needs_no_request(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA)
    prepare(directory, digest, TOTAL + b"0 %d\n" % len(DATA))
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert registry.seen == []


def test_unfinished_file_that_holds_other_bytes_is_removed(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA)
    prepare(directory, digest, TOTAL + b"0 1000\n")
    partial(directory, digest).write_bytes(bytes(len(DATA)))
    assert failure(process.do(blob_order(registry, digest, directory))).reason == MISMATCH
    assert names(directory) == []


def test_what_ollama_left_is_used_and_removed(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(DATA)
    partial(directory, digest).write_bytes(DATA)
    third = len(DATA) // 3
    for number, (offset, completed) in enumerate([(0, third), (third, 1000)]):
        part = {"N": number, "Offset": offset, "Size": third, "Completed": completed}
        partial(directory, digest, f"-{number}").write_text(json.dumps(part))
    outside = {"N": 2, "Offset": len(DATA), "Size": third, "Completed": 9}
    partial(directory, digest, "-2").write_text(json.dumps(outside))
    partial(directory, digest, "-3").write_text('{"N":3,')
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert content(directory, digest) == DATA
    assert registry.num_bytes(digest) == len(DATA) - third - 1000


def test_blob_that_another_process_fetches_is_left_to_it(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(DATA)
    path = partial(directory, digest)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        failed = failure(process.do(blob_order(registry, digest, directory)))
        assert failed.error.startswith(f"{path} is being downloaded by another process")
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    mount, at = shutil.which("mount"), tmp_path / "disk"
    at.mkdir()
    if mount is None or os.geteuid() or subprocess.run([mount, "-t", "tmpfs", "-o", "size=12m", "none", at]).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_full_disk_is_told_and_the_room_is_given_back(
    registry: MisbehavingRegistry, process: Sender, small_disk: Path
) -> None:
    digest, other = registry.add(DATA), registry.add(DATA[:5000])
    failed = failure(process.do(blob_order(registry, digest, small_disk)))
    assert (failed.reason, names(small_disk)) == (NO_SPACE, [])
    assert failed.error.startswith(f"no space left in {small_disk}: ")
    assert process.do(blob_order(registry, other, small_disk))[-1] == Finished(1)


def test_disk_without_room_for_a_journal_is_told(
    registry: MisbehavingRegistry, process: Sender, small_disk: Path
) -> None:
    digest = registry.add(DATA)
    (small_disk / "filler").write_bytes(bytes(12 << 20))
    failed = failure(process.do(blob_order(registry, digest, small_disk)))
    assert (failed.reason, names(small_disk), registry.seen) == (NO_SPACE, ["filler"], [])


def test_directory_that_is_not_there_is_named(registry: MisbehavingRegistry, process: Sender, tmp_path: Path) -> None:
    digest = registry.add(DATA)
    failed = failure(process.do(blob_order(registry, digest, tmp_path / "nowhere")))
    assert failed.error == f"{tmp_path}/nowhere cannot be written: No such file or directory"
