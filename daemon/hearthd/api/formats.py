"""The `format` of a request: none, any JSON object, or what a JSON Schema accepts.

What the engine could not enforce, or only with more time and memory than a request may take, is refused here, before a
model is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec

from hearthd.api.branches import as_any_of
from hearthd.errors import BadRequest

ANY_OBJECT = '{"type":"object"}'

MAX_SCHEMA_BYTES = 256 << 10
MAX_SCHEMA_DEPTH = 100  # the compiler's JSON reader stops at 128
MAX_SCHEMA_NODES = 20_000  # objects and arrays
MAX_EXACT_INTEGER = 1 << 53  # the compiler reads numbers as float64

# fmt: off
REFUSED = frozenset({
    "$dynamicRef", "$recursiveRef", "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if",
    "maxContains", "minContains", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    "uniqueItems", "x-guidance",
})
DIALECTS = frozenset({
    "http://json-schema.org/draft-04/schema", "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema", "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
})
# of these some are enforced; any other name is a note for people (JSON Schema 2020-12, Validation, section 7.2.3)
STANDARD_FORMATS = frozenset({
    "date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri",
    "iri-reference", "json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference", "uri-template",
    "uuid",
})
# fmt: on
COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
BOUNDS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
OF_ONE = ("additionalItems", "additionalProperties", "items")  # the value is a schema
OF_LIST = ("allOf", "anyOf", "items", "oneOf", "prefixItems")  # the value is an array of schemas
OF_NAMES = ("$defs", "definitions", "patternProperties", "properties")  # the value's members are schemas


def schema_of(format: Any) -> str | None:
    """The JSON Schema, as JSON text, that an answer in `format` meets; None where any text will do.

    Raises BadRequest for what is neither "json" nor a schema, and for a schema that cannot be enforced.
    """
    if format is None or format == "":
        return None
    if format == "json":
        return ANY_OBJECT
    if not isinstance(format, dict):
        shown = format if isinstance(format, str) else _text(format)
        raise BadRequest(f'invalid format: "{shown[:100]}"; expected "json" or a valid JSON Schema object')
    check_schema(format)
    text = _text(as_any_of(_without_annotations(format)))
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise _refusal("", f"is larger than {MAX_SCHEMA_BYTES >> 10} KiB")
    return text


def _without_annotations(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without the keywords that ask for nothing."""
    schema = copy.deepcopy(schema)
    for _, node in _subschemas(schema):
        if isinstance(node.get("format"), str) and node["format"] not in STANDARD_FORMATS:
            del node["format"]
        if node.get("uniqueItems") is False:
            del node["uniqueItems"]
    return schema


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _refusal(path: str, reason: str) -> BadRequest:
    return BadRequest(f"invalid format: the schema{' at ' + path[:200] if path else ''} {reason}")


def check_schema(schema: dict[str, Any]) -> None:
    """Raises BadRequest, with the place, for what the engine could not enforce or only at too high a price."""
    _check_shape(schema)
    for path, node in _subschemas(schema):
        _check_node(path, node)


def _check_shape(schema: dict[str, Any]) -> None:
    for number, depth in enumerate(_depths(schema)):
        if depth > MAX_SCHEMA_DEPTH:
            raise _refusal("", f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        if number == MAX_SCHEMA_NODES:
            raise _refusal("", f"has more than {MAX_SCHEMA_NODES} objects and arrays")


def _depths(root: Any) -> Iterator[int]:
    """The depth of every object and array."""
    waiting = [(1, root)]
    while waiting:
        depth, node = waiting.pop()
        yield depth
        members = node.values() if isinstance(node, dict) else node
        waiting += [(depth + 1, member) for member in members if isinstance(member, dict | list)]


def _subschemas(root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object that is a schema by its place, with that place; BadRequest where something else stands there."""
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise _refusal(path, "must be an object or a boolean")
        yield path, node
        waiting += _children(path, node)


def _children(path: str, node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword, value in node.items():
        place = f"{path}/{keyword}"
        if keyword in OF_LIST and isinstance(value, list):
            yield from ((f"{place}/{index}", child) for index, child in enumerate(value))
        elif keyword in OF_NAMES and isinstance(value, dict):
            yield from ((f"{place}/{name}", child) for name, child in value.items())
        elif keyword in OF_ONE:
            yield place, value
        elif keyword in OF_LIST:
            raise _refusal(place, "must be an array of schemas")
        elif keyword in OF_NAMES:
            raise _refusal(place, "must be an object whose members are schemas")


def _check_node(path: str, node: dict[str, Any]) -> None:
    for keyword, value in node.items():
        place = f"{path}/{keyword}"
        if keyword in REFUSED and not (keyword == "uniqueItems" and value is False):
            raise _refusal(place, "is not supported; leave it out")
        if keyword in COUNTS and not (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            raise _refusal(place, "must be a whole number that is not negative")
        if keyword in BOUNDS and not (_is_number(value) or (isinstance(value, bool) and keyword.startswith("excl"))):
            raise _refusal(place, "must be a number")
        if keyword in ("enum", "const") and not _is_exact(value):
            raise _refusal(place, f"has a number beyond {MAX_EXACT_INTEGER}, which would not stay exact")
        if keyword in ("pattern", "format", "$ref") and not isinstance(value, str):
            raise _refusal(place, "must be a string")
    if "$schema" in node and str(node["$schema"]).rstrip("#") not in DIALECTS:
        raise _refusal(f"{path}/$schema", f"names an unknown dialect: {_text(node['$schema'])[:100]}")
    _check_type(path, node.get("type", []))
    _check_required(path, node)


def _check_type(path: str, types: Any) -> None:
    for name in types if isinstance(types, list) else [types]:
        if name not in ("array", "boolean", "integer", "null", "number", "object", "string"):
            raise _refusal(f"{path}/type", f"names no JSON type: {_text(name)[:100]}")


def _check_required(path: str, node: dict[str, Any]) -> None:
    required = node.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _refusal(f"{path}/required", "must be an array of strings")
    # nothing keeps a model from writing a free member's name twice, and then it counts once
    if node.get("minProperties", 0) > max(1, len(set(required))):
        raise _refusal(f"{path}/minProperties", "must not exceed 1 or the number of required members")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_exact(value: Any) -> bool:
    """Whether float64 holds every integer of `value`."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
        elif isinstance(part, int) and abs(part) > MAX_EXACT_INTEGER:
            return False
    return True
