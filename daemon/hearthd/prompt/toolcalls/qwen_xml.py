"""Qwen3-Coder: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hearthd.prompt.conversation import ToolCall, ToolFunction, ToolProperty
from hearthd.prompt.toolcalls.cursor import Cursor, Reading, Waiting
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values
from hearthd.prompt.toolcalls.scan import NotACall, decode

MAX_PARAMETERS = 256


class QwenXml(MarkedParser):
    marks = ("<tool_call>", "<function=")
    visible = ("<tool_call>", "</tool_call>")

    def read(self, cursor: Cursor, mark: str) -> Reading:
        if mark == "<tool_call>":
            if (yield from cursor.blanks()) == "{":
                yield from read_values(cursor, self.tools, "</tool_call>")
                return
            if not (yield from cursor.take("<function=")):
                raise NotACall
        yield (yield from self._function(cursor))
        yield from cursor.skip("</tool_call>")

    def _function(self, cursor: Cursor) -> Waiting[ToolCall]:
        name = yield from cursor.name(">")
        if name not in self.tools:
            raise NotACall
        arguments: dict[str, Any] = {}
        yield from cursor.blanks()
        while not (yield from cursor.take("</function>")):
            if len(arguments) >= MAX_PARAMETERS or not (yield from cursor.take("<parameter=")):
                raise NotACall
            key = yield from cursor.name(">")
            arguments[key] = typed((yield from cursor.until("</parameter>")), property_of(self.tools[name], key))
            yield from cursor.blanks()
        return ToolCall(name=name, arguments=arguments)


def property_of(function: ToolFunction, key: str) -> ToolProperty:
    return function.parameters.properties.get(key, ToolProperty())


def typed(text: str, schema: ToolProperty) -> Any:
    """The value that `text` is by the schema's types; the text itself where it is none of these.

    One line break at either end belongs to the markup.
    """
    text = text.removeprefix("\n").removesuffix("\n")
    for kind in sorted(kinds(schema), key=list(VALUES).index):
        try:
            return VALUES[kind](text)
        except (NotACall, KeyError):
            continue
    return text


def kinds(schema: ToolProperty) -> Iterator[str]:
    named = [schema.type] if isinstance(schema.type, str) else schema.type
    yield from (kind for kind in named if kind in VALUES)
    for choice in schema.any_of:
        yield from kinds(choice)


def _null(text: str) -> None:
    if text.strip().lower() not in ("null", "none"):
        raise NotACall


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.strip().lower()]


def _json(*types: type) -> Callable[[str], Any]:
    def value(text: str) -> Any:
        found = decode(text.strip())
        if type(found) not in types:
            raise NotACall
        return found

    return value


VALUES: dict[str, Callable[[str], Any]] = {
    "null": _null,
    "boolean": _boolean,
    "integer": _json(int),
    "number": _json(int, float),
    "array": _json(list),
    "object": _json(dict),
    "string": str,
}
