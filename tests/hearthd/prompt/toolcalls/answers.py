"""Answers with calls in them, parsed in pieces."""

from __future__ import annotations

from typing import Any

from hearthd.prompt.conversation import Tool, ToolCall, ToolFunction, ToolParameters, ToolProperty
from hearthd.prompt.toolcalls.dialect import dialect_of

TYPES: dict[str, Any] = {
    "s": "string", "n": "integer", "x": "number", "b": "boolean", "l": "array", "o": "object",
    "u": ["integer", "string"], "z": ["null", "string"],
}  # fmt: skip
PROPERTIES = {name: ToolProperty(type=kind) for name, kind in TYPES.items()}
PROPERTIES["any"] = ToolProperty(any_of=[ToolProperty(type="boolean"), ToolProperty(type="integer")])
TOOLS = [
    Tool(function=ToolFunction(name=name, parameters=ToolParameters(properties=PROPERTIES)))
    for name in ("f", "g", "get.it", "function")
]
Found = tuple[str, list[tuple[str, dict[str, Any]]]]


def parsed(dialect: str, *pieces: str, tag: str = "") -> tuple[str, list[ToolCall]]:
    """The content and the calls of an answer that comes in these pieces."""
    parser = dialect_of(dialect)(TOOLS, tag)
    parts = [*map(parser.feed, pieces), parser.flush()]
    return "".join(content for content, _ in parts), [call for _, calls in parts for call in calls]


def found(dialect: str, text: str, tag: str = "", size: int = 3) -> Found:
    """The same, of a text cut into pieces of `size` characters, as plain names and arguments."""
    content, calls = parsed(dialect, *(text[at : at + size] for at in range(0, len(text), size)), tag=tag)
    return content, [(call.name, call.arguments) for call in calls]
