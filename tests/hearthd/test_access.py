from __future__ import annotations

import os
from pathlib import Path

import pytest

from hearthd.access import Account, first_closed, is_open, may

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask for another user")

SOMEBODY = Account("somebody", 4321, (4321, 4322))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "allowed"),
    [
        (4321, 0, 0o400, True),
        (4321, 4321, 0o044, False),  # what the others may is nothing to the owner
        (0, 4321, 0o040, True),
        (0, 4322, 0o040, True),
        (0, 4322, 0o004, False),
        (0, 0, 0o004, True),
        (0, 0, 0o440, False),
    ],
)
def test_another_user_may_what_the_mode_says(file: Path, uid: int, gid: int, mode: int, allowed: bool) -> None:
    os.chown(file, uid, gid)
    file.chmod(mode)
    assert may(file, os.R_OK, SOMEBODY) is allowed
    assert not may(file, os.W_OK, SOMEBODY)


def test_what_is_not_there_is_not_open(tmp_path: Path) -> None:
    assert not may(tmp_path / "absent", os.R_OK, SOMEBODY)
    assert not may(tmp_path / "absent", os.R_OK, None)


def test_a_directory_is_open_where_it_can_be_entered_too(tmp_path: Path, file: Path) -> None:
    os.chown(tmp_path, 4321, 4321)
    tmp_path.chmod(0o600)
    assert not is_open(tmp_path, os.R_OK, SOMEBODY)
    tmp_path.chmod(0o700)
    assert is_open(tmp_path, os.R_OK | os.W_OK, SOMEBODY)
    assert not is_open(file, 0, None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Where somebody may read everything."""
    for directory in (*tmp_path.parents, tmp_path):
        if not may(directory, os.X_OK, SOMEBODY):
            directory.chmod(0o755)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    return tmp_path / "a"


def test_the_first_that_is_closed_is_named(tree: Path) -> None:
    assert first_closed(tree, SOMEBODY) is None
    (tree / "b" / "c").chmod(0o600)
    assert first_closed(tree, SOMEBODY) == tree / "b" / "c"
    (tree / "b").chmod(0o700)
    assert first_closed(tree, SOMEBODY) == tree / "b"
    tree.parent.chmod(0o700)
    assert first_closed(tree, SOMEBODY) == tree.parent
    assert first_closed(tree, None) is None


def test_a_link_that_leads_nowhere_is_no_fault(tree: Path) -> None:
    (tree / "link").symlink_to("nowhere")
    assert first_closed(tree, SOMEBODY) is None
