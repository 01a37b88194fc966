from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hearthd.errors import StoreError
from hearthd.store.durable import explained, free_bytes, replace_directory, write_all, write_file


def test_written_file_replaces_the_old_one_and_makes_its_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for data in (b"old", b"new"):
        write_file(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def directory_with(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(text)
    return path


def test_a_finished_directory_replaces_what_has_its_name(tmp_path: Path) -> None:
    target = directory_with(tmp_path / "target", "old")
    for text in ("new", "newer"):
        replace_directory(directory_with(tmp_path / "finished", text), target)
        assert (target / "file").read_text() == text
        assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_lies_in_a_lower_layer_of_overlayfs_is_replaced(tmp_path: Path) -> None:
    directory_with(tmp_path / "lower" / "target", "old")
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    program = """if True:
        import sys
        from pathlib import Path
        from hearthd.store.durable import replace_directory
        merged = Path(sys.argv[1])
        (merged / "finished").mkdir()
        (merged / "finished" / "file").write_text("new")
        replace_directory(merged / "finished", merged / "target")
        print((merged / "target" / "file").read_text(), *sorted(path.name for path in merged.iterdir()))
    """
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=off"
    mounted = f'mount -t overlay overlay -o {options} {tmp_path}/merged || exit 77; exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, sys.executable, "-c", program, f"{tmp_path}/merged"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"overlayfs cannot be mounted here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout) == (0, "new target\n"), done.stderr


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
