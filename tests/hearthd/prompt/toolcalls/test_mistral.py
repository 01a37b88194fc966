from __future__ import annotations

import pytest

from tests.hearthd.prompt.toolcalls.answers import found

CALLS = '[{"name": "f", "arguments": {"s": "a]"}}, {"name": "g", "arguments": {}}]'
FOUND = [("f", {"s": "a]"}), ("g", {})]


@pytest.mark.parametrize(
    "text", [f"[TOOL_CALLS]{CALLS}", f"[TOOL_CALLS] {CALLS}[/TOOL_CALLS]", CALLS, f"[TOOL_CALLS]\n{CALLS}\n"]
)
def test_a_list_of_calls_is_found(text: str) -> None:
    assert found("mistral", text) == ("", FOUND)


def test_text_around_a_bare_list_is_content() -> None:
    assert found("mistral", f"I call [two]: {CALLS} now") == ("I call [two]:  now", FOUND)


@pytest.mark.parametrize(
    "text",
    [
        '[TOOL_CALLS]f[ARGS]{"s": "a"}[TOOL_CALLS]g[ARGS]{}',
        '[TOOL_CALLS]f{"s": "a"}[TOOL_CALLS]g{}',
        '[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"s": "a"}[TOOL_CALLS] g [ARGS] {}',
    ],
)
def test_calls_with_the_name_in_front_are_found(text: str) -> None:
    assert found("mistral", text) == ("", [("f", {"s": "a"}), ("g", {})])


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS][]",
        "[TOOL_CALLS]h[ARGS]{}",
        "[TOOL_CALLS]f[ARGS]",
        "see [1] and [{]",
        '[{"city": "Oslo"}]',
        '[{"name": "Oslo"}]',
        "[TOOL_CALLS] " + CALLS[:-1],
        "[TOOL_CA",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert found("mistral", text) == (text, [])
