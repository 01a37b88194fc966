"""eq, ne, lt, le, gt, ge: values of one kind are compared, of two kinds refused, and nil equals only nil."""

from __future__ import annotations

from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault
from hearthd.prompt.gotemplate.values import Image, List, Map, Record, Value, type_name

_BASIC = (bool, int, float, str)


def equal_any(run: Run, values: list[Value]) -> bool:
    """Whether the first is equal to one of the others."""
    first = values[0]
    if len(values) < 2:
        raise Fault("missing argument for comparison")
    return any(equal(run, first, other) for other in values[1:])


def equal(run: Run, first: Value, other: Value) -> bool:
    """Fault where two types cannot be compared."""
    kind = type(first)
    if kind is type(other) and kind in _BASIC:
        if kind is str and first is not other and len(first) == len(other):
            run.look(len(first))
        return bool(first == other)
    if first is None or other is None:
        return _is_nil(first) and _is_nil(other)
    if kind in _BASIC or type(other) in _BASIC:
        raise Fault(f"incompatible types for comparison: {type_name(first)} and {type_name(other)}")
    if kind is not type(other):
        raise Fault(f"non-comparable types {type_name(first)} and {type_name(other)}")
    if _is_nil(first) or _is_nil(other):
        return _is_nil(first) and _is_nil(other)
    if isinstance(first, Record) and first.type.is_pointer:
        return first is other
    raise Fault(f"non-comparable type {type_name(other)}")


def _is_nil(value: Value) -> bool:
    if isinstance(value, List | Map):
        return value.is_nil
    return value is None or (isinstance(value, Image) and not value.encoded)


def less(run: Run, first: Value, other: Value) -> bool:
    """Fault where the two have no order."""
    kind = type(first)
    if kind not in _BASIC or type(other) not in _BASIC:
        raise Fault("invalid type for comparison")
    if kind is not type(other):
        raise Fault(f"incompatible types for comparison: {type_name(first)} and {type_name(other)}")
    if kind is bool:
        raise Fault("invalid type for comparison")
    if kind is str:
        run.look(min(len(first), len(other)))
    return bool(first < other)
