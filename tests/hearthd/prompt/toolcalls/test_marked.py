"""What all dialects with marks of their own have in common, shown on one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.prompt.toolcalls import DIALECTS
from hearthd.prompt.toolcalls.cursor import MAX_NAME_CHARS
from hearthd.prompt.toolcalls.dialect import MAX_CALLS, dialect_of
from hearthd.prompt.toolcalls.marked import MAX_BLANKS, MAX_CALL_CHARS
from tests.hearthd.prompt.toolcalls.answers import TOOLS, found, parsed

CALL = '<tool_call>{"name": "f", "arguments": {"s": "a"}}</tool_call>'


def test_calls_are_numbered_and_get_ids_of_their_own() -> None:
    calls = parsed("hermes", CALL + CALL)[1]
    assert [call.index for call in calls] == [0, 1]
    assert all(re.fullmatch("call_[a-z0-9]{8}", call.id) for call in calls)
    assert calls[0].id != calls[1].id


def test_each_call_comes_as_soon_as_it_is_complete() -> None:
    parser = dialect_of("hermes")(TOOLS)
    assert parser.feed('so <tool_call>{"name": "f", "arguments": {"s": "}"') == ("so ", [])
    assert [call.name for call in parser.feed("}}")[1]] == ["f"]
    assert [call.name for call in parser.feed('\n{"name": "g"}')[1]] == ["g"]
    assert parser.feed("</tool_call>") == ("", [])
    assert parser.flush() == ("", [])


def test_text_before_a_mark_is_released_at_once() -> None:
    parser = dialect_of("hermes")(TOOLS)
    assert parser.feed("a <b <tool_") == ("a <b ", [])
    assert parser.feed("kit>") == ("<tool_kit>", [])


def test_text_behind_a_call_is_content() -> None:
    assert found("hermes", f"{CALL}\n\nDone. ") == ("\n\nDone. ", [("f", {"s": "a"})])


def test_blanks_between_calls_and_at_the_end_are_dropped() -> None:
    assert found("hermes", f"{CALL}\n\n{CALL}\n") == ("", [("f", {"s": "a"})] * 2)


def test_endless_blanks_behind_a_call_are_not_held_for_ever() -> None:
    parser = dialect_of("hermes")(TOOLS)
    parser.feed(CALL)
    assert parser.feed(" " * MAX_BLANKS) == ("", [])
    assert parser.feed(" ") == (" " * (MAX_BLANKS + 1), [])


def test_a_call_of_an_unknown_tool_is_content() -> None:
    text = '<tool_call>{"name": "h", "arguments": {}}</tool_call>'
    assert found("hermes", text) == (text, [])


def test_an_unknown_tool_does_not_hide_the_calls_around_it() -> None:
    other = '<tool_call>{"name": "h", "arguments": {}}</tool_call>'
    assert found("hermes", CALL + other + CALL) == (other, [("f", {"s": "a"})] * 2)


def test_an_answer_that_ends_within_a_call_is_content() -> None:
    text = '<tool_call>{"name": "f", "argu'
    assert found("hermes", text) == (text, [])


def test_an_answer_that_ends_within_a_second_call_keeps_the_first() -> None:
    assert found("hermes", CALL[:-12] + ', {"name"') == (', {"name"', [("f", {"s": "a"})])


def test_a_call_behind_a_mark_without_one_is_found() -> None:
    assert found("hermes", f"write <tool_call> like this: {CALL}") == (
        "write <tool_call> like this: ",
        [("f", {"s": "a"})],
    )


def test_a_call_behind_one_that_never_ends_is_found_at_the_end() -> None:
    assert found("hermes", '<tool_call>{"name": ' + CALL) == ('<tool_call>{"name": ', [("f", {"s": "a"})])


def test_arguments_keep_the_model_s_order() -> None:
    calls = found("hermes", '<tool_call>{"arguments": {"z": 1, "a": 2, "m": 3}, "name": "f"}')[1]
    assert list(calls[0][1]) == ["z", "a", "m"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (r'"{\"s\": \"a\"}"', {"s": "a"}),
        ('""', {}),
        ("null", {}),
        ('{"n": 123456789012345678901234}', {"n": 1.2345678901234568e23}),
        ('{"s": "two\nlines"}', {"s": "two\nlines"}),
        ('{"s": "a\\u0000é\\ud83d\\ude00"}', {"s": "a\0é😀"}),
    ],
)
def test_arguments_are_read_as_models_write_them(arguments: str, value: object) -> None:
    assert found("hermes", f'<tool_call>{{"name": "f", "arguments": {arguments}}}') == ("", [("f", value)])


@pytest.mark.parametrize(
    "arguments",
    [
        "[1]", "7", '"[1]"', '"{"', '{"n": NaN}', '{"n": 1e999}', '{"n": ' + "9" * 5000 + "}", '{"s": "\\ud800"}',
        '{"a" 1}', "{'a': 1}", '{"o": ' + '{"o": ' * 100 + "1" + "}" * 101,
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_sent_on_are_content(arguments: str) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert found("hermes", text) == (text, [])


@pytest.mark.parametrize(
    "value",
    [
        '{"name": "f"}',
        '{"type": "function", "function": {"name": "f", "parameters": {}}}',
        '{"f": {}}',
        '[{"name": "f"}]',
    ],
)
def test_the_shapes_that_models_give_a_call_are_known(value: str) -> None:
    assert found("hermes", f"<tool_call>{value}</tool_call>") == ("", [("f", {})])


@pytest.mark.parametrize("value", ['{"name": "f", "age": 3}', '{"name": 3}', '[{"name": "f"}, 3]', "[]", "{}"])
def test_objects_that_are_no_calls_are_content(value: str) -> None:
    text = f"<tool_call>{value}</tool_call>"
    assert found("hermes", text) == (text, [])


def test_a_call_that_grows_without_end_is_released() -> None:
    parser = dialect_of("hermes")(TOOLS)
    start = '<tool_call>{"name": "f", "arguments": {"s": "'
    assert parser.feed(start) == ("", [])
    chunk = "x" * (MAX_CALL_CHARS // 4)
    parts = [parser.feed(chunk)[0] for _ in range(5)]
    assert start + chunk * 5 == "".join(parts) + parser.flush()[0]
    assert parts[-1] != "" or parts[-2] != ""


def test_more_calls_than_are_sane_are_content() -> None:
    content, calls = parsed("hermes", CALL * (MAX_CALLS + 2))
    assert len(calls) == MAX_CALLS
    assert content == CALL * 2


def test_hostile_text_takes_bounded_work() -> None:
    text = '<tool_call>{"a": "' * 20_000
    assert parsed("hermes", text) == (text, [])
    text = "[" * 200_000
    assert parsed("mistral", text) == (text, [])


def test_an_endless_name_is_not_waited_for() -> None:
    parser = dialect_of("qwen_xml")(TOOLS)
    text = "<function=" + "x" * (MAX_NAME_CHARS + 2)
    assert parser.feed(text) == (text, [])


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<function=f>", "<parameter=s>", "</parameter>", "</function>", "[TOOL_CALLS]",
    "f[ARGS]", "[", "]", "{", "}", '{"name": "f", "arguments": {"s": "a"}}', '[{"name": "g", "parameters": {}}]',
    "<|python_tag|>", '[f(s="a")]', "f.call(", ")", ";", ",", " ", "\n", "so", "Action:", "```json", "```",
    "functools[", "<|tool_call|>", "<toolcall>", "<|tool▁calls▁begin|>", "<|tool▁call▁begin|>function<|tool▁sep|>f\n",
    "<|tool▁call▁end|>", '{"tool_calls": ', '"', "\\",
]  # fmt: skip
ANSWERS = st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=ANSWERS, size=st.integers(1, 12))
def test_chunk_borders_do_not_matter(dialect: str, text: str, size: int) -> None:
    assert found(dialect, text, "<tool_call>", size) == found(dialect, text, "<tool_call>", 10_000)


@pytest.mark.parametrize("dialect", sorted(DIALECTS.keys() - {"tagged"}))
@given(text=ANSWERS)
def test_text_without_calls_comes_back_as_it_was(dialect: str, text: str) -> None:
    content, calls = found(dialect, text)
    assert calls or content == text
    assert len(content) <= len(text)
