"""Property types of tools in TypeScript's words."""

from __future__ import annotations

from hearthd.prompt.gotemplate.values import List, Record, Value

PROPERTY = "api.ToolProperty"

_WORDS = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def typescript(value: Value) -> str:
    """`string`, `number | null`, ...; `any` for what is no property of a tool."""
    if not (isinstance(value, Record) and value.type.name == PROPERTY):
        return "any"
    choices = value.fields["AnyOf"]
    if isinstance(choices, List) and len(choices):
        return " | ".join([typescript(choice) for choice in choices.elements])
    types = value.fields["Type"]
    words = [_WORDS.get(name, "any") for name in types.elements] if isinstance(types, List) else []
    return " | ".join(words) or "any"
