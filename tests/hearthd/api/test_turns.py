from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hearthd.api.binding import bind
from hearthd.api.turns import read_think, read_tools, read_turns, wire_call
from hearthd.api.wire import ChatRequest, MessageInput
from hearthd.errors import BadRequest
from hearthd.prompt.conversation import ToolCall


def message(**fields: Any) -> MessageInput:
    body = json.dumps({"messages": [{"role": "assistant"} | fields]}).encode()
    return bind(body, ChatRequest).messages[0]


def call(arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"function": {"name": "f", "arguments": arguments} | fields}


def test_calls_of_the_conversation_keep_their_order_and_nulls() -> None:
    (turn,) = read_turns([message(tool_calls=[call({"b": 1, "a": None}), call({}), call({"x": {"y": None}})])])
    assert turn.tool_calls == (
        ToolCall(name="f", arguments={"b": 1, "a": None}, index=0),
        ToolCall(name="f", arguments={}, index=1),
        ToolCall(name="f", arguments={"x": {"y": None}}, index=2),
    )
    assert list(turn.tool_calls[0].arguments) == ["b", "a"]


def test_arguments_as_json_text_are_read() -> None:
    (turn,) = read_turns([message(tool_calls=[call('{"a": 1}', index=3) | {"id": "call_x"}])])
    assert turn.tool_calls == (ToolCall(name="f", arguments={"a": 1}, id="call_x", index=3),)


@pytest.mark.parametrize(
    "calls", [["f"], [{"function": 1}], [call([1])], [call("[1]")], [call("{")], [call("[" * 9999)]]
)
def test_what_is_no_call_is_refused_naming_its_place(calls: list[Any]) -> None:
    with pytest.raises(BadRequest, match=r"messages\[1\]\.tool_calls\[0\]"):
        read_turns([message(), message(tool_calls=calls)])


def test_result_of_a_tool_says_whose_it_is() -> None:
    fields = {"role": "TOOL", "content": "11", "tool_name": "f", "tool_call_id": "call_x"}
    (turn,) = read_turns([message(**fields)])
    assert (turn.role, turn.tool_name, turn.tool_call_id) == ("tool", "f", "call_x")
    (turn,) = read_turns([message(role="tool", content="11", name="f")])
    assert turn.tool_name == "f"


def test_tool_keeps_what_templates_know_and_loses_the_rest() -> None:
    parameters = {
        "type": "object",
        "required": ["city"],
        "properties": {
            "city": {"type": ["string", "null"], "description": "where", "default": "x", "enum": ["a", None]}
        },
        "additionalProperties": False,
    }
    function = {"name": "weather", "description": None, "parameters": parameters, "strict": True}
    (tool,) = read_tools([{"type": "function", "function": function}])
    city = {"type": ["string", "null"], "description": "where", "enum": ["a", None]}
    assert msgspec.to_builtins(tool) == {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "required": ["city"], "properties": {"city": city}},
        },
    }


def test_more_tools_than_sense_are_refused() -> None:
    with pytest.raises(BadRequest, match="1024 are allowed"):
        read_tools([{}] * 1025)


def test_call_is_sent_with_its_index_and_an_object() -> None:
    sent = msgspec.json.encode(wire_call(ToolCall(name="f", arguments={"b": 1, "a": 2}, id="call_1")))
    assert sent == b'{"id":"call_1","function":{"index":0,"name":"f","arguments":{"b":1,"a":2}}}'


@pytest.mark.parametrize(
    ("asked", "read"), [(None, (None, "")), (True, (True, "")), (False, (False, "")), ("high", (True, "high"))]
)
def test_thinking_is_unset_a_switch_or_a_level(asked: Any, read: tuple[bool | None, str]) -> None:
    assert read_think(asked) == read
