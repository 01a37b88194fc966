"""What `format` may be, and what of a schema is refused before a model is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hearthd.api.formats import MAX_SCHEMA_BYTES, schema_of
from hearthd.errors import BadRequest


def refusal(format: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        schema_of(format)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_format_asks_for_nothing(nothing: Any) -> None:
    assert schema_of(nothing) is None


def test_json_asks_for_any_object() -> None:
    assert json.loads(schema_of("json") or "") == {"type": "object"}


def test_schema_comes_back_with_its_members_in_order() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"const": 1.5}}, "required": ["z"]}
    text = schema_of(schema) or ""
    assert json.loads(text) == schema
    assert text.index('"z"') < text.index('"a"')


@pytest.mark.parametrize(
    ("format", "shown"),
    [("xml", "xml"), ("JSON", "JSON"), (5, "5"), (True, "true"), ([1], "[1]"), ("x" * 1000, "x" * 100)],
)
def test_what_is_no_format_is_refused_with_the_sentence(format: Any, shown: str) -> None:
    assert refusal(format) == f'invalid format: "{shown}"; expected "json" or a valid JSON Schema object'


@pytest.mark.parametrize(
    "keyword",
    ["not", "if", "then", "contains", "uniqueItems", "propertyNames", "dependentRequired", "unevaluatedProperties"],
)
def test_unsupported_keyword_is_refused_with_its_place(keyword: str) -> None:
    schema = {"type": "object", "properties": {"tags": {"anyOf": [{"type": "array", keyword: True}]}}}
    assert refusal(schema) == (
        f"invalid format: the schema at /properties/tags/anyOf/0/{keyword} is not supported; leave it out"
    )


def test_engine_directives_in_a_schema_are_refused() -> None:
    assert "/x-guidance is not supported" in refusal({"x-guidance": {"lenient": True}, "type": "object"})


def test_names_of_members_and_constants_are_no_keywords() -> None:
    schema = {"properties": {"not": {"type": "string"}, "$ref": {"enum": [{"if": 1, "type": "none"}]}}, "title": "if"}
    assert schema_of(schema) is not None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strng"}, '/type names no JSON type: "strng"'),
        ({"type": ["string", 5]}, "/type names no JSON type: 5"),
        ({"properties": []}, "/properties must be an object whose members are schemas"),
        ({"properties": {"a": 5}}, "/properties/a must be an object or a boolean"),
        ({"items": 5}, "/items must be an object or a boolean"),
        ({"items": [{"type": 5}]}, "/items/0/type names no JSON type: 5"),
        ({"anyOf": {}}, "/anyOf must be an array of schemas"),
        ({"required": "a"}, "/required must be an array of strings"),
        ({"required": [1]}, "/required must be an array of strings"),
        ({"minLength": -1}, "/minLength must be a whole number"),
        ({"maxItems": 1.5}, "/maxItems must be a whole number"),
        ({"minItems": True}, "/minItems must be a whole number"),
        ({"minimum": "1"}, "/minimum must be a number"),
        ({"pattern": 1}, "/pattern must be a string"),
        ({"$ref": 1}, "/$ref must be a string"),
        ({"$schema": "http://example.org/own"}, '/$schema names an unknown dialect: "http://example.org/own"'),
        ({"const": 2**53 + 1}, "/const has a number beyond"),
        ({"enum": [{"a": [2**60]}]}, "/enum has a number beyond"),
        ({"minProperties": 2}, "/minProperties must not exceed 1"),
    ],
)
def test_malformed_keyword_is_refused_with_its_place(schema: dict[str, Any], said: str) -> None:
    assert said in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True},
        {"type": "object", "required": ["a", "b"], "minProperties": 2},
        {"items": True, "additionalProperties": False, "properties": {"a": True}},
        {"type": "number", "multipleOf": 0.01},
        {"allOf": [{"multipleOf": 5}, {"multipleOf": 1000}, {"multipleOf": 0.25}]},
        {},
    ],
)
def test_what_the_engine_can_enforce_passes(schema: dict[str, Any]) -> None:
    assert schema_of(schema) is not None


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (nested(100_000), "is nested deeper than 100 levels"),
        ({"anyOf": [{}] * 30_000}, "has more than 20000 objects and arrays"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, "is larger than 256 KiB"),
    ],
)
def test_schema_that_would_cost_too_much_is_refused_naming_the_bound(schema: dict[str, Any], said: str) -> None:
    assert said in refusal(schema)


def test_notes_for_people_are_no_part_of_what_is_enforced() -> None:
    noted = {"type": "object", "properties": {"a": {"type": "string", "format": "password"}}}
    assert schema_of(noted) == schema_of({"type": "object", "properties": {"a": {"type": "string"}}})
    assert noted["properties"] == {"a": {"type": "string", "format": "password"}}
    listed = {"type": "array", "items": {"type": "integer", "format": "int32"}, "uniqueItems": False}
    assert schema_of(listed) == schema_of({"type": "array", "items": {"type": "integer"}})
    assert schema_of({"type": "string", "format": "uuid"}) == '{"type":"string","format":"uuid"}'
