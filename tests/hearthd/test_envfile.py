"""Files of variables as systemd reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.envfile import MAX_FILE_BYTES, parse, read_env_file


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
        ('A="x', {"A": "x"}),
        ("A='x\nB=1\n", {"A": "x\nB=1\n"}),
        ('A="a\\\\\nb"\n', {"A": "a\\\nb"}),
        ("junk\\\nA=1\n", {"A": "1"}),
        ("A=1\rB=2\n", {"A": "1", "B": "2"}),
        ("A=b\xa0\n", {"A": "b\xa0"}),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A='b\nc'", "b\nc"),
        ('A="b\nc"', "b\nc"),
        ('A=" b " ', " b "),
        ("A=''", ""),
        ("A='b\\'", "b\\"),
        ("A='b' \"c\" d", "bcd"),
        ("A=\"b\" c 'd'", "bc 'd'"),
        ('A=b"c"', 'b"c"'),
        ('A="b"#c', "b#c"),
        ("A=b # c", "b # c"),
    ],
)
def test_quotes_count_only_before_bare_text(text: str, value: str) -> None:
    assert parse(f"{text}\nB=1") == {"A": value, "B": "1"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"A=b\c", "bc"),
        (r"A=\"b", '"b'),
        (r"A=b\\", "b\\"),
        ("A=b\\", "b"),
        ("A=\\\nb", "b"),
        (r'A="\"\\\`\$"', '"\\`$'),
        (r'A="b\nc\d"', r"b\nc\d"),
        ('A="b\\\nc"', "bc"),
    ],
)
def test_a_backslash_takes_the_meaning_of_a_character(text: str, value: str) -> None:
    assert parse(text) == {"A": value}


def test_lines_may_end_as_elsewhere() -> None:
    assert parse("A=1\r\n\r\n# B=2\r\nC='3'\r\n") == {"A": "1", "C": "3"}


@pytest.mark.parametrize("junk", ["=", "=b", "A B=c", "[Service]", "'", "é=1"])
def test_what_is_no_assignment_is_passed_over(junk: str) -> None:
    assert parse(f"X=1\n{junk}\nY=2") == {"X": "1", "Y": "2"}


def test_of_a_large_file_only_the_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("A=1\n" + "#" * MAX_FILE_BYTES + "\nB=2\n")
    assert read_env_file(path) == {"A": "1"}
