"""Which branches of oneOf are known to exclude each other."""

from __future__ import annotations

from typing import Any

import pytest

from hearthd.api.branches import as_any_of


def variant(kind: Any, **members: Any) -> dict[str, Any]:
    properties = {"kind": {"const": kind}, **members}
    return {"type": "object", "properties": properties, "required": ["kind"]}


DEFINITIONS = {"cat": variant("cat", meows={"type": "boolean"}), "dog": variant("dog"), "a/b~c": variant("odd")}
REFERENCES = [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}, {"$ref": "#/$defs/a~1b~0c"}]


@pytest.mark.parametrize(
    "branches",
    [
        REFERENCES,
        [variant(1), variant(2)],
        [variant("a"), {"type": "null"}],
        [{"type": "string"}, {"type": ["integer", "null"]}],
        [{"const": 1}, {"enum": [2, "1"]}],
        [
            {"type": "object", "properties": {"in": variant("a")}, "required": ["in"]},
            {"type": "object", "properties": {"in": variant("b")}},
        ],
        [variant("a"), {"properties": {"kind": {"const": "b"}}}],
        [{"type": "object"}, False],
    ],
)
def test_branches_that_cannot_meet_become_any_of(branches: list[Any]) -> None:
    schema = {"title": "t", "oneOf": branches, "$defs": DEFINITIONS}
    assert as_any_of(schema) == {"title": "t", "anyOf": branches, "$defs": DEFINITIONS}
    assert list(as_any_of(schema)) == ["title", "anyOf", "$defs"]
    assert "oneOf" in schema  # as it was


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"const": 1}, {"enum": [1.0]}],
        [{"type": "object"}, variant("a")],
        [
            {"type": "object", "properties": {"a": {"const": 1}}},
            {"type": "object", "properties": {"a": {"const": 2}}},
        ],
        [{"$ref": "#/$defs/none"}, {"type": "string"}],
        [{"$ref": "http://elsewhere"}, {"type": "string"}],
        [{"$ref": "#/$defs/loop"}, {"type": "string"}],
        [{}, {}],
        [{"type": 5}, {"type": [5]}],
        [{"type": "object", "properties": 5, "required": 5}, {"type": "object", "required": [5]}],
        [{"const": i} for i in range(1000)],
    ],
)
def test_branches_that_may_meet_stay(branches: list[Any]) -> None:
    schema = {"oneOf": branches, "$defs": {"loop": {"$ref": "#/$defs/loop"}}}
    assert as_any_of(schema) == schema


def test_one_of_beside_any_of_stays() -> None:
    schema = {"oneOf": [{"type": "string"}, {"type": "null"}], "anyOf": [{}]}
    assert as_any_of(schema) == schema


def test_nested_one_of_is_found() -> None:
    schema = {"properties": {"pet": {"items": {"oneOf": REFERENCES}}}, "$defs": DEFINITIONS}
    assert as_any_of(schema)["properties"] == {"pet": {"items": {"anyOf": REFERENCES}}}


def test_values_are_left_as_they_are() -> None:
    schema = {"const": {"oneOf": [{"const": 1}, {"const": 2}]}}
    assert as_any_of(schema) == schema
