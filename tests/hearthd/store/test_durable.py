from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hearthd.errors import StoreError
from hearthd.store.durable import explained, free_bytes, write_all, write_file


def test_written_file_replaces_the_old_one_and_makes_its_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for data in (b"old", b"new"):
        write_file(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "inside").mkdir(parents=True)  # a directory that is not empty cannot be replaced
    with pytest.raises(StoreError, match="cannot be written"):
        write_file(target, b"new")
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(StoreError, match="cannot be written"):
        write_file(Path("/proc/version/file"), b"new")


def test_full_disk_is_told_with_what_is_free(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no space left in .*: \d+ bytes are free; make room"), explained(tmp_path):
        fd = os.open("/dev/full", os.O_WRONLY)
        try:
            write_all(fd, b"x")
        finally:
            os.close(fd)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_missing_permission_is_told_apart(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreError, match="is not writable"), explained(tmp_path):
        raise OSError(number, os.strerror(number))


def test_free_space_is_known_of_a_directory_still_to_be_made(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0
