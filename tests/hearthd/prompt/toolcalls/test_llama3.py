from __future__ import annotations

import pytest

from tests.hearthd.prompt.toolcalls.answers import found

CALL = '{"name": "f", "parameters": {"s": "a;b"}}'
F = ("f", {"s": "a;b"})


@pytest.mark.parametrize(
    "text", [CALL, f"\n{CALL}\n", f"<|python_tag|>{CALL}", f"[{CALL}]", f"<|python_tag|> [{CALL}]"]
)
def test_a_call_is_found(text: str) -> None:
    content, calls = found("llama3", text)
    assert (content.strip(), calls) == ("", [F])


def test_calls_with_semicolons_between_are_found() -> None:
    assert found("llama3", f"{CALL}; {CALL};{CALL}") == ("", [F, F, F])


def test_json_within_a_text_is_text() -> None:
    assert found("llama3", f"Say {CALL}") == (f"Say {CALL}", [])


def test_the_tag_counts_behind_text() -> None:
    assert found("llama3", f"So: <|python_tag|>{CALL} ok") == ("So:  ok", [F])


def test_json_that_is_no_call_is_text() -> None:
    text = '{"answer": 42, "name": "Deep Thought"} is it'
    assert found("llama3", text) == (text, [])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(s='a', n=-3), g()]", [("f", {"s": "a", "n": -3}), ("g", {})]),
        ('[f(l=[1, 2.5, "x"], o={"a": None}, b=true)]', [("f", {"l": [1, 2.5, "x"], "o": {"a": None}, "b": True})]),
        ('[get.it(s="a)]\'")]', [("get.it", {"s": "a)]'"})]),
        ('<|python_tag|>f.call(s="a")', [("f", {"s": "a"})]),
        (r"[f(s='\d')]", [("f", {"s": "\\d"})]),
    ],
)
def test_calls_written_as_python_are_found(text: str, calls: list[object]) -> None:
    assert found("llama3", text) == ("", calls)


@pytest.mark.parametrize(
    "text",
    [
        "[f(1)]",
        "[f(*a)]",
        "[f(**{'s': 1})]",
        "[f(s=open('x'))]",
        "[f(s=1j)]",
        "[f(x=1e999)]",
        "[f(s=b'a')]",
        "[f(s=a)]",
        "[f(o={1: 2})]",
        "[f(s='\\ud800')]",
        "[h(s=1)]",
        "[f]",
        "[f(s=]",
        "[]",
        "[1](link)",
        "[f(l=" + "[" * 100 + "]" * 100 + ")]",
        "<|python_tag|>print('hi')",
        "<|python_tag|>import os",
        "<function=h>{}</function>",
        "<function=f>so",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert found("llama3", text) == (text, [])


def test_the_form_for_custom_tools_is_understood() -> None:
    assert found("llama3", 'so <function=f>{"s": "a"}</function>') == ("so ", [("f", {"s": "a"})])


@pytest.mark.parametrize("piece", ["-", "not ", "1+", "a.", "lambda:", "1 if 1 else ", "9"])
def test_python_that_no_parser_could_hold_is_content(piece: str) -> None:
    text = f"[f(n={piece * 10_000}1)]"
    assert found("llama3", text, size=1000) == (text, [])


def test_a_name_that_is_no_plain_one_is_content() -> None:
    text = "[f" + ".a" * 2_000 + "(), f()()]"
    assert found("llama3", text) == (text, [])
