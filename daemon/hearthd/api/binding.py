"""A JSON body becomes a request Struct, by the rules that clients of this API rely on.

The content type does not matter. Field names match in any case, unknown ones are ignored, `null`
means absent, and only the first JSON value counts. Text that is not Unicode is repaired with U+FFFD.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from hearthd.errors import BadRequest

T = TypeVar("T", bound=msgspec.Struct)

_WHITESPACE = " \t\r\n"
_CLASH = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_KINDS = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "array": "list", "dict": "object"}


def bind(body: bytes, request_type: type[T]) -> T:
    """The request that `body` holds. BadRequest names what is wrong: nothing there, no JSON, or a field's type."""
    if not body:
        raise BadRequest("missing request body")
    value = _parse(body)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object")
    try:
        return msgspec.convert(_fold(value, request_type), request_type, strict=True)
    except msgspec.ValidationError as error:
        raise BadRequest(_clash(str(error))) from None


def _parse(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return _parse_leniently(body)
    except RecursionError:
        raise BadRequest("the request body is nested too deeply") from None


def _parse_leniently(body: bytes) -> Any:
    """The first JSON value of a body that is no strict JSON: trailing bytes, broken UTF-8, lone surrogates."""
    text = body.decode("utf-8", "replace").lstrip(_WHITESPACE)
    if not text:
        raise BadRequest("missing request body")
    try:
        value, _ = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text)
        return _mend(value)
    except json.JSONDecodeError as error:
        if error.pos >= len(text):
            raise BadRequest("invalid JSON in the request body: unexpected EOF") from None
        raise BadRequest(f"invalid JSON in the request body: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BadRequest("the request body is nested too deeply") from None
    except ValueError as error:  # a number with more digits than Python converts
        raise BadRequest(f"invalid JSON in the request body: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise BadRequest(f"invalid JSON in the request body: {name} is no JSON value")


def _mend(value: Any) -> Any:
    """`value` with lone surrogates replaced, so that every string can be encoded."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


@functools.cache
def _table(struct: type[msgspec.Struct]) -> dict[str, tuple[str, type[msgspec.Struct] | None]]:
    """Lower-case field name -> (name on the wire, Struct type of the members where the field is a list of them)."""
    hints = get_type_hints(struct)
    table = {}
    for field in msgspec.structs.fields(struct):
        members = [arg for arg in get_args(hints[field.name]) if isinstance(arg, type)]
        nested = next((arg for arg in members if issubclass(arg, msgspec.Struct)), None)
        table[field.encode_name.lower()] = (field.encode_name, nested)
    return table


def _fold(value: Any, struct: type[msgspec.Struct]) -> Any:
    """`value` with only the fields of `struct`, under their own spelling, and no nulls."""
    if not isinstance(value, dict):
        return value
    table = _table(struct)
    folded = {}
    for key, item in value.items():
        name, nested = table.get(key.lower(), ("", None))
        if not name or item is None:
            continue
        if nested is not None and isinstance(item, list):
            item = [_fold(member, nested) for member in item]
        elif isinstance(item, float) and item.is_integer():
            item = int(item)
        folded[name] = item
    return folded


def _clash(text: str) -> str:
    """A type clash in the words of the API: the field first, then what it should have been."""
    match = _CLASH.fullmatch(text)
    path = match["path"] if match else None
    what = match["what"] if match else text
    what = re.sub(r"`(\w+)( \| null)?`", lambda m: _KINDS.get(m[1], m[1]), what).replace("`", "")
    return f"field '{path}': {what[:1].lower()}{what[1:]}" if path else what
