"""What templates compute with: Go's values, told apart as Go's types are.

nil is None; bool, int, float64 and string are Python's bool, int, float and str; the rest are the classes below.
Nothing of a Python object can be reached from a template but what these hold.
"""

from __future__ import annotations

import binascii
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.quoting import utf8

Value = Any

_LARGEST = sys.float_info.max


class Type(msgspec.Struct, frozen=True, kw_only=True):
    """A named type of Go."""

    name: str
    is_json: bool = False  # prints as JSON, not as the fields and elements in it
    is_pointer: bool = False
    unwraps: bool = False  # a list of one is shown as the one
    json_names: dict[str, tuple[str, bool]] = {}  # field -> its key in JSON, whether it is left out when empty
    element: str = "interface {}"  # the type of what a list or a map holds
    methods: dict[str, Callable[[Run, Any], Value]] = {}  # without arguments

    @property
    def full_name(self) -> str:
        """As errors write it."""
        return f"*{self.name}" if self.is_pointer else self.name


LIST = Type(name="[]interface {}")
MAP = Type(name="map[string]interface {}")
STRINGS = Type(name="[]string", element="string")
IMAGE = Type(name="api.ImageData", element="uint8")


class Record:
    """A struct."""

    __slots__ = ("fields", "json", "type")

    def __init__(self, type: Type, fields: dict[str, Value]) -> None:
        self.type = type
        self.fields = fields
        self.json: str | None = None  # once it was asked for


class List:
    """A slice: elements `start` to `stop` of `items`, which are shared with other slices and never change."""

    __slots__ = ("is_nil", "items", "json", "start", "stop", "type")

    def __init__(
        self, items: list[Value], type: Type = LIST, *, start: int = 0, stop: int | None = None, is_nil: bool = False
    ) -> None:
        self.items = items
        self.type = type
        self.start = start
        self.stop = len(items) if stop is None else stop
        self.is_nil = is_nil
        self.json: str | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def elements(self) -> list[Value]:
        """Those in the slice; not to be changed."""
        if self.start == 0 and self.stop == len(self.items):
            return self.items
        return self.items[self.start : self.stop]


class Map:
    """A map with text as keys, in the order in which they are shown."""

    __slots__ = ("entries", "is_nil", "json", "type")

    def __init__(self, entries: dict[str, Value], type: Type = MAP, *, is_nil: bool = False) -> None:
        self.entries = entries
        self.type = type
        self.is_nil = is_nil
        self.json: str | None = None


class Image:
    """Bytes that are decoded only where a template looks at them."""

    __slots__ = ("encoded",)

    def __init__(self, encoded: str) -> None:
        self.encoded = encoded  # base64

    def bytes(self) -> List:
        """The bytes, or none where the text is no base64."""
        try:
            return List(list(binascii.a2b_base64(self.encoded, strict_mode=True)), IMAGE)
        except (binascii.Error, ValueError):
            return List([], IMAGE)


def of_json(value: Any) -> Value:
    """A value decoded from JSON as Go's encoding/json gives it: each number a float64, keys in order."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return _float(value)
    if isinstance(value, dict):
        return Map({str(key): of_json(value[key]) for key in sorted(value)})
    if isinstance(value, list | tuple):
        return List([of_json(element) for element in value])
    return str(value)


def _float(value: float) -> float:
    try:
        return min(max(float(value), -_LARGEST), _LARGEST)
    except OverflowError:
        return _LARGEST if value > 0 else -_LARGEST


def truth(value: Value) -> bool:
    """False, 0, nil and what is empty are false; a struct is true."""
    kind = type(value)
    if kind is List:
        return bool(value.stop > value.start)
    if kind is Map:
        return bool(value.entries)
    if kind is Image:
        return bool(value.encoded)
    return True if kind is Record else bool(value)


def type_name(value: Value) -> str:
    """As Go's %T writes it."""
    if value is None:
        return "<nil>"
    if isinstance(value, Record | List | Map):
        return value.type.full_name
    return {bool: "bool", int: "int", float: "float64", str: "string", Image: "api.ImageData"}[type(value)]


def num_bytes(text: str) -> int:
    """The length of a Go string."""
    return len(text) if text.isascii() else len(utf8(text))
