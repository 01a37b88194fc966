"""JSON as Go's encoding/json writes it: compact, `<`, `>` and `&` escaped, maps in the order of their keys."""

from __future__ import annotations

import re

import msgspec

from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault
from hearthd.prompt.gotemplate.floats import json_float
from hearthd.prompt.gotemplate.quoting import clean
from hearthd.prompt.gotemplate.values import Image, List, Map, Record, Value

MAX_DEPTH = 100

_ESCAPED = re.compile("[<>&\u2028\u2029]")


def encode(run: Run, value: Value, depth: int = 0) -> str:
    """`value` in JSON."""
    kind = type(value)
    if kind is str:
        return run.make(text(value))
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return json_float(value)
    if kind is Image:
        return f'"{value.encoded}"'
    if value.json is None:
        if depth > MAX_DEPTH:
            raise Fault(f"a value is nested more than {MAX_DEPTH} deep")
        run.steps -= 1
        value.json = _container(run, value, depth + 1)
    made: str = value.json
    run.chars -= len(made)
    return made


def _container(run: Run, value: Record | List | Map, depth: int) -> str:
    if isinstance(value, Record):
        return _record(run, value, depth)
    if value.is_nil:
        return "null"
    if isinstance(value, List):
        return _list(run, value, depth)
    parts = [f"{text(key)}:{encode(run, entry, depth)}" for key, entry in value.entries.items()]
    return f"{{{','.join(parts)}}}"


def _list(run: Run, value: List, depth: int) -> str:
    if value.type.unwraps and len(value) == 1:
        return encode(run, value.elements[0], depth)
    run.steps -= len(value)
    run.check()
    return f"[{','.join([encode(run, element, depth) for element in value.elements])}]"


def _record(run: Run, value: Record, depth: int) -> str:
    names = value.type.json_names
    parts = []
    for field, entry in value.fields.items():
        name, omitted = names.get(field, (field, False))
        if not (omitted and _is_empty(entry)):
            parts.append(f'"{name}":{encode(run, entry, depth)}')
    return f"{{{','.join(parts)}}}"


def _is_empty(value: Value) -> bool:
    if isinstance(value, List):
        return not len(value)
    return not value.entries if isinstance(value, Map) else value is None or value == ""


def text(value: str) -> str:
    """A string in JSON."""
    quoted = msgspec.json.encode(clean(value)).decode()
    if _ESCAPED.search(quoted):
        quoted = _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
    return quoted
