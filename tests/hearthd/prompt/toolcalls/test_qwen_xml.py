from __future__ import annotations

import pytest

from tests.hearthd.prompt.toolcalls.answers import found


def call(key: str, value: str) -> str:
    return f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("s", "7", "7"),
        ("s", "two\n\nlines ", "two\n\nlines "),
        ("n", "7", 7),
        ("n", "seven", "seven"),
        ("n", "7.5", "7.5"),
        ("x", "7.5", 7.5),
        ("x", "1e999", "1e999"),
        ("b", "True", True),
        ("b", "yes", "yes"),
        ("l", '[1, "a"]', [1, "a"]),
        ("o", '{"a": {}}', {"a": {}}),
        ("o", "{'a': 1}", "{'a': 1}"),
        ("u", "7", 7),
        ("u", "seven", "seven"),
        ("z", "null", None),
        ("z", "nil", "nil"),
        ("any", "false", False),
        ("any", "3", 3),
        ("unlisted", "7", "7"),
    ],
)
def test_values_have_the_schema_s_type(key: str, text: str, value: object) -> None:
    assert found("qwen_xml", call(key, text)) == ("", [("f", {key: value})])


def test_parameters_keep_their_order() -> None:
    text = (
        "so <function=g><parameter=s>a</parameter><parameter=n>1</parameter><parameter=b>true</parameter></function>."
    )
    content, calls = found("qwen_xml", text)
    assert (content, list(calls[0][1])) == ("so .", ["s", "n", "b"])


def test_several_calls_are_found() -> None:
    assert found("qwen_xml", call("n", "1") + "\n" + call("n", "2")) == ("", [("f", {"n": 1}), ("f", {"n": 2})])


def test_a_function_without_parameters_is_called() -> None:
    assert found("qwen_xml", "<tool_call><function=f></function></tool_call>") == ("", [("f", {})])


def test_json_between_the_marks_is_understood() -> None:
    assert found("qwen_xml", '<tool_call>{"name": "f", "arguments": {}}</tool_call>') == ("", [("f", {})])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=h>\n</function></tool_call>",
        "<function=f><parameter=s>a",
        "<function=f>so",
        "<tool_call>so</tool_call>",
        "<function=f>" + "".join(f"<parameter=p{n}>a</parameter>" for n in range(300)) + "</function>",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert found("qwen_xml", text) == (text, [])
