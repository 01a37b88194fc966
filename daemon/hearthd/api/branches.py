"""Branches of oneOf that cannot meet: then it says what anyOf says, which the engine can enforce.

Two branches cannot meet where their types or constants differ, or where objects of both need a member that does.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec

MAX_BRANCHES = 64
MAX_STEPS = 6  # references followed, and members within members
VALUES = ("const", "default", "enum", "examples")  # what these hold is no schema
TYPES = frozenset(["array", "boolean", "integer", "null", "number", "object", "string"])


def as_any_of(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of `schema` in which oneOf of branches that cannot meet is anyOf."""
    rewritten: dict[str, Any] = Branches(schema).rewritten(schema)
    return rewritten


class Branches:
    """What is known of the branches of one schema document."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def rewritten(self, node: Any) -> Any:
        """A copy of `node`."""
        if isinstance(node, list):
            return [self.rewritten(child) for child in node]
        if not isinstance(node, dict):
            return node
        rename = "oneOf" in node and "anyOf" not in node and self._exclude_each_other(node["oneOf"])
        names = {"oneOf": "anyOf"} if rename else {}
        return {
            names.get(keyword, keyword): value if keyword in VALUES else self.rewritten(value)
            for keyword, value in node.items()
        }

    def _exclude_each_other(self, branches: Any) -> bool:
        if not isinstance(branches, list) or len(branches) > MAX_BRANCHES:
            return False
        return all(self._apart(left, right, MAX_STEPS) for left, right in combinations(branches, 2))

    def _apart(self, left: Any, right: Any, steps: int) -> bool:
        """Whether nothing meets both; False where that is not plain."""
        if left is False or right is False:
            return True
        left, right = self._resolved(left), self._resolved(right)
        if not (isinstance(left, dict) and isinstance(right, dict) and steps):
            return False
        ours, theirs = _constants(left), _constants(right)
        if ours is not None and theirs is not None:
            return ours.isdisjoint(theirs)
        shared = _types(left) & _types(right)
        return not shared or (shared == {"object"} and self._members_apart(left, right, steps - 1))

    def _members_apart(self, left: dict[str, Any], right: dict[str, Any], steps: int) -> bool:
        ours, theirs = _members(left), _members(right)
        needed = _names(left.get("required")) | _names(right.get("required"))
        return any(self._apart(ours[name], theirs[name], steps) for name in ours if name in needed & theirs.keys())

    def _resolved(self, schema: Any) -> Any:
        """What a reference leads to; the schema itself where it is none, None where it leads nowhere."""
        for _ in range(MAX_STEPS):
            if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
                return schema
            schema = self._target(schema["$ref"])
        return None

    def _target(self, reference: str) -> Any:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        return found if reference.startswith("#/") else None


def _constants(schema: dict[str, Any]) -> frozenset[bytes] | None:
    """The values that const or enum leave; None where there is neither."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
        return None
    return frozenset(msgspec.json.encode(_number(value)) for value in values)


def _number(value: Any) -> Any:
    """1 and 1.0 are one value to JSON Schema."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _types(schema: dict[str, Any]) -> frozenset[str]:
    """The types that `schema` may let through."""
    named = schema.get("type")
    types = _names([named] if isinstance(named, str) else named) or TYPES
    return types | {"integer"} if "number" in types else types


def _members(schema: dict[str, Any]) -> dict[str, Any]:
    members = schema.get("properties")
    return members if isinstance(members, dict) else {}


def _names(value: Any) -> frozenset[str]:
    """The strings of an array, where it is one; references may lead to what is no schema at all."""
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()
