"""The dialects that differ in their marks alone."""

from __future__ import annotations

import pytest

from tests.hearthd.prompt.toolcalls.answers import found

CALLS = '[{"name": "f", "arguments": {"s": "a"}}, {"name": "g", "parameters": {}}]'
FOUND = [("f", {"s": "a"}), ("g", {})]
ACTIONS = CALLS.replace('"name"', '"tool_name"')


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("hermes", f"<tool_call>{CALLS[1:-1]}</tool_call>"),
        ("granite", f"<|tool_call|>{CALLS}"),
        ("granite", f"<tool_call>{CALLS}"),
        ("phi4", f"<|tool_call|>{CALLS}<|/tool_call|>"),
        ("phi4", f"functools{CALLS}"),
        ("firefunction", f"functools{CALLS}"),
        ("nemotron", f"<toolcall> {CALLS[1:]}}} </toolcall>"),
        ("nemotron", f"<TOOLCALL>{CALLS}</TOOLCALL>"),
        ("command_r", f"Action: ```json\n{ACTIONS}\n```"),
        ("command_r", f"Action:```json\n{ACTIONS}```"),
        ("command_r", f"<|START_ACTION|>\n{ACTIONS}\n<|END_ACTION|>"),
        ("xlam", f'{{"tool_calls": {CALLS}}}'),
        ("xlam", CALLS),
    ],
)
def test_calls_are_found(dialect: str, text: str) -> None:
    assert found(dialect, text) == ("", FOUND)


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("granite", "<|tool_call|>so"),
        ("phi4", "import functools[1]"),
        ("firefunction", "functools[cache]"),
        ("nemotron", "<toolcall> ]} </toolcall>"),
        ("command_r", "Action: go"),
        ("command_r", "Action: ```json\n{}\n```"),
        ("command_r", 'Action: ```json\n[{"tool_name": "directly-answer", "parameters": {}}]\n```'),
        ("xlam", '{"tool_calls": []}'),
        ("xlam", f"so {CALLS}"),
    ],
)
def test_what_is_no_call_is_content(dialect: str, text: str) -> None:
    assert found(dialect, text) == (text, [])
