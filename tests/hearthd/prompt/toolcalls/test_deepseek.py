from __future__ import annotations

import pytest

from tests.hearthd.prompt.toolcalls.answers import found

FENCED = """<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>f
```json
{"s": "```"}
```<|tool▁call▁end|>
<|tool▁call▁begin|>function<|tool▁sep|>g
```json
{}
```<|tool▁call▁end|><|tool▁calls▁end|>"""
BARE = (
    '<|tool▁calls▁begin|><|tool▁call▁begin|>f<|tool▁sep|>{"s": "```"}<|tool▁call▁end|>'
    "<|tool▁call▁begin|>g<|tool▁sep|>{}<|tool▁call▁end|>"
)


@pytest.mark.parametrize("bar", ["|", "｜"])
@pytest.mark.parametrize("text", [FENCED, BARE, FENCED.removeprefix(BARE[:20]), BARE.removesuffix("<|tool▁call▁end|>")])
def test_calls_are_found(text: str, bar: str) -> None:
    assert found("deepseek", f"so {text}".replace("|", bar)) == ("so ", [("f", {"s": "```"}), ("g", {})])


def test_text_behind_the_calls_is_content() -> None:
    assert found("deepseek", f"{FENCED}\n so")[0] == "\n so"


def test_a_tool_called_function_can_be_called() -> None:
    text = "<|tool▁call▁begin|>function<|tool▁sep|>{}<|tool▁call▁end|>"
    assert found("deepseek", text) == ("", [("function", {})])


@pytest.mark.parametrize(
    "text",
    [
        "<|tool▁calls▁begin|>so",
        "<|tool▁call▁begin|>function<|tool▁sep|>h\n{}",
        "<|tool▁call▁begin|>f<|tool▁sep|>{",
        "<|tool▁call▁begin|>f",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert found("deepseek", text) == (text, [])
