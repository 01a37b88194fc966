"""Files of variables as systemd reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.envfile import parse, read_env_file


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\nA=2", {"A": "2"}),
        ("# A=1\n; B=2\n", {}),
        ("A=  one two  \n", {"A": "one two"}),
        ("  A = 1\n", {"A": "1"}),
        ("A='one # two'\n", {"A": "one # two"}),
        ('A="one \\"two\\" $3"\n', {"A": 'one "two" $3'}),
        ("A='one'\"two\"three\n", {"A": "onetwothree"}),
        ("A=one\\\n  two\n", {"A": "one  two"}),
        ("A=\n", {"A": ""}),
        ("no assignment\nA=1", {"A": "1"}),
        ("1A=1\nB-C=2\n", {}),
        ("export A=1\n", {}),
    ],
)
def test_assignments_are_read_as_systemd_does(text: str, found: dict[str, str]) -> None:
    assert parse(text) == found


def test_what_is_no_text_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A=\xff\nB=1\n")
    assert read_env_file(path) == {"A": "\ufffd", "B": "1"}


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_env_file(tmp_path / "file")
