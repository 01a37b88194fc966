"""Calls as JSON writes them: a name and its arguments, under the keys that models use."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.toolcalls.scan import NotACall, decode

NAMES = ("name", "tool_name", "function")
ARGUMENTS = ("arguments", "parameters")
WRAPPERS = ("function", "tool_calls", "tool_call", "function_call")
OTHERS = ("type", "id", "tool_call_id")
KEYS = frozenset((*NAMES, *ARGUMENTS, *WRAPPERS, *OTHERS))


def calls_in(value: Any, names: Collection[str]) -> list[ToolCall]:
    """The calls that a decoded JSON value makes, in order.

    Raises NotACall where a part of it is none or calls what is not in `names`.
    """
    if isinstance(value, list):
        return [call for item in value for call in calls_in(item, names)]
    if not isinstance(value, dict):
        raise NotACall
    name = name_in(value)
    if name is not None:
        return [_call(name, _arguments_in(value), names)]
    wrapped = next((value[key] for key in WRAPPERS if isinstance(value.get(key), dict | list)), None)
    if wrapped is not None:
        return calls_in(wrapped, names)
    if len(value) == 1:
        ((name, inner),) = value.items()
        return [_call(name, arguments_of(inner), names)]
    raise NotACall


def name_in(value: dict[str, Any]) -> str | None:
    """The name of the function that an object calls, if it is a call at all."""
    return next((value[key] for key in NAMES if isinstance(value.get(key), str)), None)


def is_envelope(value: dict[str, Any]) -> bool:
    """Whether an object has the shape of a call, of whatever function."""
    return name_in(value) is not None and any(key in value for key in ARGUMENTS)


def arguments_of(value: Any) -> dict[str, Any]:
    """Arguments given as an object, as its JSON text, or as nothing. Raises NotACall for all else."""
    if isinstance(value, str):
        value = decode(value) if value.strip() else {}
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NotACall
    return value


def _arguments_in(value: dict[str, Any]) -> dict[str, Any]:
    for key in ARGUMENTS:
        if key in value:
            return arguments_of(value[key])
    if value.keys() - {*NAMES, *OTHERS}:
        raise NotACall  # an object that has a name is not yet a call
    return {}


def _call(name: str, arguments: dict[str, Any], names: Collection[str]) -> ToolCall:
    if name not in names:
        raise NotACall
    return ToolCall(name=name, arguments=arguments)
