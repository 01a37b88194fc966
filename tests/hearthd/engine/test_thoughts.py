"""Tags over token borders; what a constraint makes of them is in test_grammar.py."""

from __future__ import annotations

import pytest

from hearthd.engine.thoughts import Closing, Opening


@pytest.mark.parametrize("pieces", [["<think>"], ["<", "think", ">"], ["<th", "ink>"]])
def test_opening_is_found_over_borders(pieces: list[str]) -> None:
    opening = Opening("<think>")
    rests = [opening.add(piece.encode()) for piece in pieces]
    assert opening.complete
    assert rests == [b""] * len(pieces)


def test_what_follows_the_opening_in_a_token_is_the_first_thought() -> None:
    opening = Opening("<think>")
    assert opening.add(b"<think>\nSo") == b"\nSo"
    assert opening.complete


@pytest.mark.parametrize("pieces", [["{"], ["<", "b"], ["<think", "ing"], [""]])
def test_text_that_leads_away_from_the_opening_is_told(pieces: list[str]) -> None:
    opening = Opening("<think>")
    assert [opening.add(piece.encode()) for piece in pieces][-1] is None
    assert not opening.complete


@pytest.mark.parametrize(
    ("pieces", "tail"),
    [
        (["a</think>"], b""),
        (["</th", "ink", ">"], b""),
        (["<", "</think>\n\n"], b""),
        (["</think", "</think> {"], b"{"),
        (["x</think>é"], "é".encode()),
    ],
)
def test_closing_is_found_over_borders_and_blanks_behind_it_are_dropped(pieces: list[str], tail: bytes) -> None:
    closing = Closing("</think>")
    *before, last = [closing.add(piece.encode()) for piece in pieces]
    assert before == [None] * len(before)
    assert last == tail


def test_thoughts_of_any_length_are_not_kept() -> None:
    closing = Closing("◁/think▷")
    for _ in range(1000):
        assert closing.add("◁/think ".encode()) is None
    assert closing.add("◁/think▷".encode()) == b""


def test_tag_of_one_byte_closes() -> None:
    closing = Closing("|")
    assert closing.add(b"a") is None
    assert closing.add(b"b|c") == b"c"
