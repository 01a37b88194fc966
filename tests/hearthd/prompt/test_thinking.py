from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hearthd.prompt.thinking import Tags, ThinkingParser

TAGS = Tags("<think>", "</think>")


def split(pieces: list[str], *, is_open: bool = False) -> tuple[str, str]:
    parser = ThinkingParser(TAGS, is_open)
    parts = [*map(parser.feed, pieces), parser.flush()]
    return "".join(thinking for thinking, _ in parts), "".join(content for _, content in parts)


def cut(text: str, borders: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(border % (len(text) + 1) for border in borders)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def test_thoughts_are_told_from_content() -> None:
    assert split(["<think>a b</think>\n\nc d"]) == ("a b", "c d")


def test_text_before_the_tag_makes_it_text() -> None:
    assert split([" so <think>a</think>"]) == ("", " so <think>a</think>")


def test_blanks_before_content_without_thoughts_are_kept() -> None:
    assert split(["  ", "\n", "a"]) == ("", "  \na")


def test_an_answer_of_blanks_is_content() -> None:
    assert split([" \n"]) == ("", " \n")


def test_half_an_opening_tag_at_the_end_is_content() -> None:
    assert split([" <thi"]) == ("", " <thi")


def test_half_a_closing_tag_at_the_end_is_a_thought() -> None:
    assert split(["<think>a</thi"]) == ("a</thi", "")


def test_thoughts_that_never_close_are_thoughts() -> None:
    assert split(["<think>a", " b"]) == ("a b", "")


def test_empty_thoughts_leave_the_content() -> None:
    assert split(["<think>\n\n</think>\n\nHi"]) == ("", "Hi")


def test_a_prompt_that_opened_the_thoughts_needs_no_tag() -> None:
    assert split(["\na</think>b"], is_open=True) == ("a", "b")


def test_a_repeated_opening_tag_is_dropped() -> None:
    assert split(["\n<thi", "nk>\na</think>b"], is_open=True) == ("a", "b")


def test_half_an_opening_tag_in_open_thoughts_is_a_thought() -> None:
    assert split(["<thi"], is_open=True) == ("<thi", "")


def test_thoughts_closed_at_once_are_empty() -> None:
    assert split(["</think>", "b"], is_open=True) == ("", "b")


def test_a_tag_that_begins_anew_within_itself_is_found() -> None:
    assert split(["<think>a<<", "/think>b"]) == ("a<", "b")


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "thi", "nk>", " ", "\n", "a"]), max_size=12)


@given(PIECES, st.lists(st.integers(0, 100)), st.booleans())
def test_chunk_borders_do_not_matter(pieces: list[str], borders: list[int], is_open: bool) -> None:
    text = "".join(pieces)
    assert split(cut(text, borders), is_open=is_open) == split([text], is_open=is_open)


@given(PIECES)
def test_nothing_is_lost_but_tags_and_blanks(pieces: list[str]) -> None:
    text = "".join(pieces)
    thinking, content = split([text])
    if thinking == "" and content.strip() == text.strip():
        return
    assert "".join((TAGS.opening + thinking + TAGS.closing + content).split()).startswith("".join(text.split()))
