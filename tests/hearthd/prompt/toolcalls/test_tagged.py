from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.prompt.toolcalls.dialect import MAX_CALLS
from hearthd.prompt.toolcalls.marked import MAX_CALL_CHARS
from tests.hearthd.prompt.toolcalls.answers import found, parsed

CALL = '{"name": "f", "arguments": {"s": "a"}}'
F = ("f", {"s": "a"})


def test_content_before_the_tag_is_kept() -> None:
    assert found("tagged", f"so <go>{CALL}</go>", "<go>") == ("so ", [F])


def test_a_name_before_an_object_makes_it_the_arguments() -> None:
    assert found("tagged", '<go>f[ARGS]{"s": "a"} g({"name": "x"})', "<go>") == ("", [F, ("g", {"name": "x"})])


def test_the_name_nearest_to_the_object_counts() -> None:
    assert found("tagged", '<go>function: f {"s": "a"}', "<go>") == ("", [F])


def test_a_name_within_a_word_does_not_count() -> None:
    assert found("tagged", '<go>if_f {"s": "a"}', "<go>") == ('<go>if_f {"s": "a"}', [])


def test_a_call_of_an_unknown_tool_is_no_call_of_a_tool_named_before_it() -> None:
    text = '<go>f {"name": "h", "arguments": {}}'
    assert found("tagged", text, "<go>") == (text, [])


def test_a_broken_object_does_not_hide_the_next() -> None:
    assert found("tagged", "<go>{s: 1}" + CALL, "<go>") == ("", [F])


def test_a_bracket_tag_counts_at_the_start_alone() -> None:
    assert found("tagged", f"so {CALL}", "{") == (f"so {CALL}", [])
    assert found("tagged", f"\n{CALL}", "{") == ("\n", [F])


def test_no_tag_means_a_brace() -> None:
    assert found("tagged", CALL) == ("", [F])


def test_an_object_that_is_no_call_makes_all_of_the_answer_content() -> None:
    text = '{"a": 1} ' + CALL
    assert found("tagged", text, "{", size=100) == (text, [])
    assert found("tagged", text, "{", size=1) == (text, [])


def test_further_calls_are_found_behind_the_first() -> None:
    assert found("tagged", f"{CALL}; {CALL}", "{") == ("", [F, F])


@pytest.mark.parametrize(("tag", "text"), [("{", '{"name": "f", "arg'), ("[", "[1, 2")])
def test_an_open_bracket_at_the_end_is_content(tag: str, text: str) -> None:
    assert found("tagged", text, tag) == (text, [])


def test_half_a_tag_at_the_end_is_content() -> None:
    assert found("tagged", "so <g", "<go>") == ("so <g", [])


def test_text_behind_the_tag_that_is_no_call_is_content() -> None:
    assert found("tagged", "<go> away", "<go>") == ("<go> away", [])


def test_held_text_is_bounded() -> None:
    text = "<go>" + "x" * (MAX_CALL_CHARS + 1)
    assert parsed("tagged", text, tag="<go>") == (text, [])
    deep = "<go>" + '{"a":' * 1000
    assert parsed("tagged", deep, tag="<go>") == (deep, [])


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("tag", ["<go>", "{"])
def test_a_call_is_kept_where_what_follows_nests_too_deeply(tag: str, size: int) -> None:
    deep = '{"a":' * 1000
    text = ("" if tag == "{" else tag) + CALL + deep
    content, calls = found("tagged", text, tag, size)
    assert calls == [F]
    assert content == deep


def test_a_bracket_that_nests_too_deeply_is_content() -> None:
    assert found("tagged", "[" * 100, "[") == ("[" * 100, [])


def test_calls_are_bounded() -> None:
    assert len(parsed("tagged", CALL * (MAX_CALLS + 2), tag="{")[1]) == MAX_CALLS
    many = "[" + ",".join([CALL] * (MAX_CALLS + 2)) + "]"
    assert len(parsed("tagged", many, tag="[")[1]) == MAX_CALLS


FRAGMENTS = ["<go>", "{", "}", "[", "]", CALL, '{"a": 1}', "f", " ", "so", '"', "\\", ";", "if_"]


@pytest.mark.parametrize("tag", ["<go>", "{", "["])
@given(text=st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join), size=st.integers(1, 12))
def test_chunk_borders_do_not_matter(tag: str, text: str, size: int) -> None:
    assert found("tagged", text, tag, size) == found("tagged", text, tag, 10_000)
