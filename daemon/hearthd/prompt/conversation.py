"""What a chat template is given: turns, tools, and whether to think."""

from __future__ import annotations

from typing import Any

import msgspec


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model wants called."""

    name: str
    arguments: dict[str, Any] = {}  # in the model's order
    id: str = ""
    index: int = 0  # among the calls of one answer


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation as a template sees it."""

    role: str
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""  # of the tool whose result this is
    tool_call_id: str = ""
    images: tuple[str, ...] = ()  # base64


class ToolProperty(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One argument of a tool: the part of JSON Schema that templates are given, in the order that they write it."""

    any_of: list[ToolProperty] = msgspec.field(default=[], name="anyOf")
    type: str | list[str] = []
    items: Any = None
    description: str = ""
    enum: list[Any] = []
    properties: dict[str, ToolProperty] = {}
    required: list[str] = []


class ToolParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The arguments of a tool."""

    type: str = ""
    defs: Any = msgspec.field(default=None, name="$defs")
    items: Any = None
    required: list[str] = []
    properties: dict[str, ToolProperty] = {}


class ToolFunction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a tool is called and takes."""

    name: str = ""
    description: str = ""
    parameters: ToolParameters = ToolParameters()


class Tool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function that the model may call."""

    type: str = ""
    items: Any = None
    function: ToolFunction = ToolFunction()


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a prompt is made from."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    think: bool | None = None  # None: the request does not say
    think_level: str = ""  # "low", "medium", "high", "max", or ""
