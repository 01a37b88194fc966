"""The messages and tools of a request, as prompts are made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hearthd.api.images import check_images
from hearthd.api.wire import CalledFunction, MessageInput
from hearthd.api.wire import ToolCall as WireToolCall
from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Tool, ToolCall, Turn

MAX_TOOLS = 1024
THINK_LEVELS = ("low", "medium", "high", "max")


def read_turns(messages: Sequence[MessageInput]) -> list[Turn]:
    """The messages of a request. BadRequest names a tool call that is none, or an image that is no base64."""
    return [_turn(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _turn(message: MessageInput, where: str) -> Turn:
    check_images(message.images)
    calls = tuple(_call(call, at, f"{where}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls))
    return Turn(
        role=message.role.lower(),
        content=message.content,
        thinking=message.thinking,
        tool_calls=calls,
        tool_name=message.tool_name or message.name,
        tool_call_id=message.tool_call_id,
        images=tuple(message.images),
    )


class _Function(msgspec.Struct, frozen=True):
    name: str = ""
    arguments: dict[str, Any] | str = {}
    index: int = 0


class _Call(msgspec.Struct, frozen=True):
    function: _Function = _Function()
    id: str = ""


def _call(value: Any, at: int, where: str) -> ToolCall:
    call = _converted(value, _Call, where)
    arguments = call.function.arguments
    if isinstance(arguments, str):
        arguments = _decoded_arguments(arguments, where)
    index = call.function.index or at
    return ToolCall(name=call.function.name, arguments=arguments, id=call.id, index=index)


def _decoded_arguments(text: str, where: str) -> dict[str, Any]:
    """Some clients give the arguments as JSON text."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest(f"{where}.function.arguments must be an object") from None


def read_tools(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """The tools of a request; what templates do not know is dropped. BadRequest names what is of a wrong type."""
    if len(tools) > MAX_TOOLS:
        raise BadRequest(f"tools holds {len(tools)} tools; {MAX_TOOLS} are allowed")
    return tuple(_converted(tool, Tool, f"tools[{at}]") for at, tool in enumerate(tools))


def _converted(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(_without_nulls(value), kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{where}: {error}") from None
    except RecursionError:
        raise BadRequest(f"{where} is nested too deeply") from None


def _without_nulls(value: Any) -> Any:
    """`value` without members that are null, which mean the same as absent ones; what a call passes stays as it is."""
    if isinstance(value, dict):
        members = ((key, item) for key, item in value.items() if item is not None)
        return {key: item if key == "arguments" else _without_nulls(item) for key, item in members}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def wire_call(call: ToolCall) -> WireToolCall:
    """A call of the model's, as it is sent."""
    function = CalledFunction(index=call.index, name=call.name, arguments=call.arguments)
    return WireToolCall(id=call.id, function=function)


def read_think(think: bool | str | None) -> tuple[bool | None, str]:
    """Whether to think, None where the request does not say, and how hard. BadRequest for an unknown level."""
    if not isinstance(think, str):
        return think, ""
    if think not in THINK_LEVELS:
        known = ", ".join(f'"{level}"' for level in THINK_LEVELS)
        raise BadRequest(f'invalid think value: "{think[:80]}" (must be {known}, true or false)')
    return True, think
