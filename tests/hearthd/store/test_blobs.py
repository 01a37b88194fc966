from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hearthd.errors import DigestMismatch, InvalidDigest, StoreError
from hearthd.store.blobs import CHUNK_BYTES, BlobStore, is_partial
from hearthd.store.durable import temp_path


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    root = tmp_path / "blobs"
    root.mkdir()
    return BlobStore(root)


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writes beyond fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGXFSZ, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.root.iterdir())


def test_written_blob_has_its_digest_for_a_name(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"hello ")
        writer.write(bytearray(b"world"))
    assert writer.digest == digest_of(b"hello world")
    assert blobs.path(writer.digest).read_bytes() == b"hello world"
    assert files(blobs) == [writer.digest.replace(":", "-")]
    assert blobs.path(writer.digest).stat().st_mode & 0o777 == 0o644


def test_blob_is_not_visible_before_it_is_whole(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"half")
        assert blobs.digests() == []
        assert blobs.strangers() == []
    assert blobs.digests() == [digest_of(b"half")]


def test_expected_digest_is_understood_in_every_spelling(blobs: BlobStore) -> None:
    want = digest_of(b"x")
    for text in (want, want.replace(":", "-"), "sha256:" + want[7:].upper()):
        with blobs.writer(text) as writer:
            writer.write(b"x")
        assert writer.digest == want
        assert blobs.has(text)


def test_other_content_than_promised_is_refused_and_nothing_left(blobs: BlobStore) -> None:
    want = digest_of(b"x")
    with pytest.raises(DigestMismatch) as caught, blobs.writer(want) as writer:
        writer.write(b"y")
    assert str(caught.value) == f'digest mismatch, expected "{want}", got "{digest_of(b"y")}"'
    assert files(blobs) == []


def test_abandoned_write_leaves_nothing(blobs: BlobStore) -> None:
    with pytest.raises(KeyboardInterrupt), blobs.writer() as writer:
        writer.write(b"x")
        raise KeyboardInterrupt
    assert files(blobs) == []


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:xyz", "md5:" + "0" * 64, "sha256-" + "0" * 63, "../x", "sha256/" + "0" * 64]
)
def test_text_that_is_no_digest_is_refused(blobs: BlobStore, text: str) -> None:
    for use in (blobs.path, blobs.has, blobs.open, blobs.remove, blobs.writer):
        with pytest.raises(InvalidDigest) as caught:
            use(text)
        assert str(caught.value) == "invalid digest format"


def test_full_disk_is_an_error_that_leaves_nothing(blobs: BlobStore) -> None:
    with file_size_limit(1000), pytest.raises(StoreError, match="cannot be written"), blobs.writer() as writer:
        writer.write(b"x" * 2000)
    assert files(blobs) == []


def test_vanished_blob_directory_is_an_error_that_names_it(blobs: BlobStore) -> None:
    blobs.root.rmdir()
    with pytest.raises(StoreError, match=str(blobs.root)):
        blobs.put(b"x")


def test_put_stores_equal_content_once(blobs: BlobStore) -> None:
    assert blobs.put(b"x") == blobs.put(b"x")
    assert len(files(blobs)) == 1


def test_missing_blob_is_an_error_that_says_what_to_do(blobs: BlobStore) -> None:
    with pytest.raises(StoreError, match="pull or create its model again"):
        blobs.open(digest_of(b"x"))
    with pytest.raises(StoreError, match=digest_of(b"x")):
        blobs.size(digest_of(b"x"))


def test_small_blob_that_is_large_is_refused(blobs: BlobStore) -> None:
    digest = blobs.put(b"x" * 11)
    assert blobs.read(digest, 11) == b"x" * 11
    with pytest.raises(StoreError, match="more than 10 bytes"):
        blobs.read(digest, 10)


def test_imported_file_is_a_copy_of_its_own(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    data = os.urandom(2 * CHUNK_BYTES + 7)
    source.write_bytes(data)
    steps: list[tuple[int, int]] = []
    digest = blobs.import_file(source, lambda done, total: steps.append((done, total)))
    source.write_bytes(b"changed")
    assert blobs.path(digest).read_bytes() == data
    assert digest == digest_of(data)
    assert steps[-1] == (len(data), len(data))
    assert len(steps) == 3


def test_import_follows_a_link_to_a_file(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert blobs.import_file(tmp_path / "link") == digest_of(b"x")


def test_import_of_what_is_no_regular_file_is_refused_at_once(blobs: BlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(StoreError, match=r"(not a regular file|cannot be read)"):
            blobs.import_file(path)
    with pytest.raises(StoreError, match="No such file"):
        blobs.import_file(tmp_path / "absent")
    assert files(blobs) == []


def test_import_larger_than_the_free_space_is_refused_before_it_begins(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "huge.gguf"
    source.touch()
    os.truncate(source, 1 << 43)  # sparse; 8 TiB
    with pytest.raises(StoreError, match="does not fit: it has 8796093022208 bytes"):
        blobs.import_file(source)
    assert files(blobs) == []


def test_import_ends_when_its_progress_is_refused(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"x" * 10)

    def refuse(done: int, total: int) -> None:
        raise InterruptedError(f"{done}/{total}")

    with pytest.raises(InterruptedError):
        blobs.import_file(source, refuse)
    assert files(blobs) == []


def test_adopted_file_becomes_a_blob_without_a_copy(blobs: BlobStore) -> None:
    path = temp_path(blobs.root)
    path.write_bytes(b"made elsewhere")
    inode = path.stat().st_ino
    seen: list[tuple[int, int]] = []
    digest = blobs.adopt(path, lambda done, total: seen.append((done, total)))
    assert blobs.read(digest, 100) == b"made elsewhere"
    assert blobs.path(digest).stat().st_ino == inode
    assert seen == [(14, 14)]
    assert list(blobs.root.iterdir()) == [blobs.path(digest)]


def test_adopted_file_that_is_here_already_is_dropped(blobs: BlobStore) -> None:
    digest = blobs.put(b"x")
    path = temp_path(blobs.root)
    path.write_bytes(b"x")
    assert blobs.adopt(path) == digest
    assert list(blobs.root.iterdir()) == [blobs.path(digest)]


def test_file_whose_adoption_is_refused_is_left_to_the_caller(blobs: BlobStore) -> None:
    path = temp_path(blobs.root)
    path.write_bytes(b"x")

    def refuse(done: int, total: int) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        blobs.adopt(path, refuse)
    assert list(blobs.root.iterdir()) == [path]
    with pytest.raises(StoreError, match="absent cannot be read"):
        blobs.adopt(blobs.root / "absent")


def test_blobs_of_old_stores_are_read_and_renamed(blobs: BlobStore) -> None:
    digest = digest_of(b"old")
    (blobs.root / digest).write_bytes(b"old")
    assert blobs.has(digest)
    assert blobs.read(digest, 3) == b"old"
    assert blobs.digests() == [digest]
    blobs.tidy()
    assert files(blobs) == [digest.replace(":", "-")]


def test_tidy_keeps_what_is_being_written(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"x")
        blobs.tidy()
    assert blobs.has(digest_of(b"x"))


def test_tidy_removes_what_a_killed_writer_left(blobs: BlobStore) -> None:
    script = (
        "import os, sys; from pathlib import Path; from hearthd.store.blobs import BlobStore\n"
        "with BlobStore(Path(sys.argv[1])).writer() as writer:\n"
        "    writer.write(b'x'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(blobs.root)], check=False)
    assert len(files(blobs)) == 1
    assert blobs.digests() == []
    blobs.tidy()
    assert files(blobs) == []


def test_strangers_are_files_that_are_neither_blobs_nor_temporary(blobs: BlobStore) -> None:
    blobs.put(b"x")
    partial = digest_of(b"y").replace(":", "-") + "-partial-0"
    for name in (".tmp-1-a", "notes.txt", partial):
        (blobs.root / name).touch()
    assert {path.name for path in blobs.strangers()} == {"notes.txt", partial}
    assert is_partial(partial)
    assert not is_partial("notes.txt")


def test_notes_of_a_download_that_ended_go_and_those_of_others_stay(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    done = blobs.put(b"done").replace(":", "-")
    other = "sha256-" + "a" * 64
    for name in (done, other):
        (tmp_path / f"{name}-partial.journal").touch()
        (tmp_path / f"{name}-upload-0123456789abcdef").touch()
    blobs.tidy()
    assert sorted(path.name for path in blobs.strangers()) == sorted(
        [f"{done}-upload-0123456789abcdef", f"{other}-partial.journal", f"{other}-upload-0123456789abcdef"]
    )
