from __future__ import annotations

import re

import pytest

from hearthd.command.wrap import Wrapper

TEXT = "The quick brown fox jumps over the lazy dog.\nAnd again: the quick brown fox, jumping."


def on_screen(written: str) -> list[str]:
    """The lines that a terminal shows after `written`: cursor left and wipe to the right are obeyed."""
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[\d*[DK]|[^\x1b]", written):
        if part == "\n":
            lines.append("")
            column = 0
        elif part.endswith("D") and len(part) > 1:
            column -= int(part[2:-1])
        elif part.endswith("K") and len(part) > 1:
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + part + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_lines_break_between_words_however_the_text_comes(piece: int) -> None:
    wrapper = Wrapper(25)
    written = "".join(wrapper.feed(TEXT[at : at + piece]) for at in range(0, len(TEXT), piece))
    assert on_screen(written) == [
        "The quick brown fox",
        "jumps over the lazy",
        "dog.",
        "And again: the quick",
        "brown fox, jumping.",
    ]


def test_a_character_is_shown_as_soon_as_it_comes() -> None:
    wrapper = Wrapper(40)
    assert [wrapper.feed(char) for char in "so it"] == list("so it")


def test_a_word_wider_than_the_line_is_broken() -> None:
    lines = on_screen(Wrapper(15).feed("x" * 23 + " y"))
    assert lines == ["x" * 10, "x" * 10, "xxx y"]


def test_wide_characters_fill_two_columns_and_break_anywhere() -> None:
    written = Wrapper(15).feed("猫" * 7)
    assert [len(line) for line in written.replace("\x1b[K", "").split("\n")] == [5, 2]


@pytest.mark.parametrize("num_columns", [0, 9])
def test_a_terminal_without_room_gets_the_text_as_it_is(num_columns: int) -> None:
    assert Wrapper(num_columns).feed(TEXT) == TEXT
