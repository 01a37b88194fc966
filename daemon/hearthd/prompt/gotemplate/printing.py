"""Values as text, as Go's fmt writes them with %v."""

from __future__ import annotations

from collections.abc import Sequence

from hearthd.prompt.gotemplate import gojson
from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault
from hearthd.prompt.gotemplate.floats import general
from hearthd.prompt.gotemplate.values import Image, Map, Record, Value

NO_VALUE = "<no value>"
MAX_DEPTH = 100


def show(run: Run, value: Value, depth: int = 0, *, names: bool = False) -> str:
    """`value` in Go's %v, or in %+v with `names`: `[a b]`, `map[k:v]`, `{a b}`, JSON for tools and arguments."""
    kind = type(value)
    if kind is str:
        return run.make(value)
    if value is None:
        return "<nil>"
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return general(value)
    if depth > MAX_DEPTH:
        raise Fault(f"a value is nested more than {MAX_DEPTH} deep")
    run.steps -= 1
    run.check()
    return _container(run, value, depth, names)


def _container(run: Run, value: Value, depth: int, names: bool) -> str:
    if isinstance(value, Image):
        value = value.bytes()
    elif value.type.is_json:
        return "{}" if value.json is None and _is_nil_map(value) else gojson.encode(run, value, depth)
    if isinstance(value, Record):
        return _record(run, value, depth, names)
    if isinstance(value, Map):
        parts = [f"{key}:{show(run, entry, depth + 1, names=names)}" for key, entry in value.entries.items()]
        return run.make(f"map[{' '.join(parts)}]")
    if value.type.unwraps and len(value) < 2:
        return "".join(value.elements)
    run.steps -= len(value)
    run.check()
    return run.make(f"[{' '.join([show(run, element, depth + 1, names=names) for element in value.elements])}]")


def _is_nil_map(value: Value) -> bool:
    return isinstance(value, Map) and value.is_nil


def _record(run: Run, value: Record, depth: int, names: bool) -> str:
    parts = [
        f"{f'{name}:' if names else ''}{show(run, field, depth + 1, names=names)}"
        for name, field in value.fields.items()
    ]
    return run.make(f"{'&' if depth and value.type.is_pointer else ''}{{{' '.join(parts)}}}")


def show_all(run: Run, values: Sequence[Value]) -> str:
    """Go's Sprint: a space between two neighbours that are no text."""
    parts: list[str] = []
    for at, value in enumerate(values):
        if at and not isinstance(value, str) and not isinstance(values[at - 1], str):
            parts.append(" ")
        parts.append(show(run, value))
    return run.make("".join(parts))


def show_line(run: Run, values: Sequence[Value]) -> str:
    """Go's Sprintln: a space between neighbours, a newline at the end."""
    return run.make(" ".join([show(run, value) for value in values]) + "\n")
