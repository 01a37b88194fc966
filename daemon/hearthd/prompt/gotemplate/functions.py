"""The functions that a template may call: those of https://pkg.go.dev/text/template#hdr-Functions, and upstream's own.

A function takes the run and its arguments; a Fault says what is wrong with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from hearthd.prompt.gotemplate import compare, gojson
from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault
from hearthd.prompt.gotemplate.printing import NO_VALUE, show_all, show_line
from hearthd.prompt.gotemplate.quoting import from_utf8, utf8
from hearthd.prompt.gotemplate.tools import typescript
from hearthd.prompt.gotemplate.values import Image, List, Map, Value, num_bytes, truth, type_name
from hearthd.prompt.gotemplate.verbs import printf

Arguments = list[Value]

_RESERVED = re.compile(rb"[^A-Za-z0-9_.~-]")

_HTML = {
    ord("\0"): "\ufffd",
    ord('"'): "&#34;",
    ord("'"): "&#39;",
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
}
_JS = {
    ord("\\"): r"\\",
    ord("'"): r"\'",
    ord('"'): r"\"",
    ord("<"): r"\u003C",
    ord(">"): r"\u003E",
    ord("&"): r"\u0026",
    ord("="): r"\u003D",
}
_JS |= {code: f"\\u{code:04X}" for code in range(32)}


class Function(NamedTuple):
    """`least` to `most` arguments (None: any number); the first `texts` of them must be strings (-1: all)."""

    call: Callable[[Run, Arguments], Value]
    least: int
    most: int | None
    texts: int = 0


def _sized(value: Value, verb: str) -> Value:
    """`value`, which must have a length."""
    if isinstance(value, Image):
        return value.bytes()
    if isinstance(value, str | List):
        return value
    raise Fault(f"can't {verb} item of type {type_name(value).removeprefix('*')}")


def _length(run: Run, arguments: Arguments) -> int:
    value = arguments[0]
    if isinstance(value, str):
        run.look(len(value))
        return num_bytes(value)
    if isinstance(value, Map):
        return len(value.entries)
    if isinstance(value, List):
        return len(value)
    if isinstance(value, Image):
        return len(value.bytes())
    raise Fault("len of nil pointer" if value is None else f"len of type {type_name(value)}")


def _position(value: Value, most: int) -> int:
    """An index of up to `most`."""
    if value is None:
        raise Fault("cannot index slice/array with nil")
    if type(value) is not int:
        raise Fault(f"cannot index slice/array with type {type_name(value)}")
    if not 0 <= value <= most:
        raise Fault(f"index out of range: {value}")
    return value


def _index(run: Run, arguments: Arguments) -> Value:
    item, *positions = arguments
    if item is None:
        raise Fault("index of untyped nil")
    for position in positions:
        item = _element(run, item, position)
    return item


def _element(run: Run, item: Value, position: Value) -> Value:
    if isinstance(item, Map):
        if not isinstance(position, str):
            raise Fault(f"value has type {type_name(position)}; should be string" if position is not None
                        else "value is nil; should be of type string")  # fmt: skip
        return item.entries.get(position)
    if item is None:
        raise Fault("index of nil pointer")
    sized = _sized(item, "index")
    if isinstance(sized, str):
        run.look(len(sized))
        data = utf8(sized)
        at = _position(position, len(data))
        return data[at] if at < len(data) else _beyond("string")
    at = _position(position, len(sized))
    return sized.items[sized.start + at] if at < len(sized) else _beyond("slice")


def _beyond(kind: str) -> Value:
    raise Fault(f"reflect: {kind} index out of range")


def _slice(run: Run, arguments: Arguments) -> Value:
    item, *positions = arguments
    if item is None:
        raise Fault("slice of untyped nil")
    if len(positions) > 3:
        raise Fault(f"too many slice indexes: {len(positions)}")
    sized = _sized(item, "slice")
    if isinstance(sized, str):
        return _text_slice(run, sized, positions)
    start, stop = _bounds(positions, len(sized), len(sized.items) - sized.start)
    return List(sized.items, sized.type, start=sized.start + start, stop=sized.start + stop)


def _text_slice(run: Run, text: str, positions: Arguments) -> str:
    if len(positions) == 3:
        raise Fault("cannot 3-index slice a string")
    data = text.encode("ascii") if text.isascii() else utf8(text)
    start, stop = _bounds(positions, len(data), len(data))
    return run.make(from_utf8(data[start:stop]))


def _bounds(positions: Arguments, length: int, capacity: int) -> tuple[int, int]:
    at = [_position(position, capacity) for position in positions]
    start, stop = [*at, *(0, length)[len(at) :]][:2]
    if start > stop:
        raise Fault(f"invalid slice index: {start} > {stop}")
    if len(at) == 3 and stop > at[2]:
        raise Fault(f"invalid slice index: {stop} > {at[2]}")
    return start, stop


def _shown(run: Run, arguments: Arguments) -> str:
    """What the escaping functions work on."""
    return show_all(run, [NO_VALUE if value is None else value for value in arguments])


def _js(run: Run, arguments: Arguments) -> str:
    text = _shown(run, arguments).translate(_JS)
    if not text.isprintable():
        text = "".join([char if char.isprintable() or char == "\x7f" else f"\\u{ord(char):04X}" for char in text])
    return run.make(text)


def _urlquery(text: str) -> str:
    return _RESERVED.sub(lambda match: b"%%%02X" % match[0][0], utf8(text)).decode().replace("%20", "+")


def _call(run: Run, arguments: Arguments) -> Value:
    value = arguments[0]
    raise Fault("call of nil" if value is None else f"non-function of type {type_name(value)}")


def _date(days: int) -> Callable[[Run, Arguments], str]:
    return lambda run, arguments: (datetime.now().astimezone() - timedelta(days=days)).strftime("%Y-%m-%d")


FUNCTIONS: dict[str, Function] = {
    # and, or: the evaluation stops at the value that decides
    "and": Function(lambda run, given: given[-1], 1, None),
    "or": Function(lambda run, given: given[-1], 1, None),
    "not": Function(lambda run, given: not truth(given[0]), 1, 1),
    "eq": Function(compare.equal_any, 1, None),
    "ne": Function(lambda run, given: not compare.equal(run, given[0], given[1]), 2, 2),
    "lt": Function(lambda run, given: compare.less(run, given[0], given[1]), 2, 2),
    "le": Function(lambda run, given: _at_most(run, given[0], given[1]), 2, 2),
    "gt": Function(lambda run, given: not _at_most(run, given[0], given[1]), 2, 2),
    "ge": Function(lambda run, given: not compare.less(run, given[0], given[1]), 2, 2),
    "len": Function(_length, 1, 1),
    "index": Function(_index, 1, None),
    "slice": Function(_slice, 1, None),
    "print": Function(lambda run, given: show_all(run, given), 0, None),
    "println": Function(lambda run, given: show_line(run, given), 0, None),
    "printf": Function(lambda run, given: printf(run, given[0], given[1:]), 1, None, texts=1),
    "html": Function(lambda run, given: run.make(_shown(run, given).translate(_HTML)), 0, None),
    "js": Function(_js, 0, None),
    "urlquery": Function(lambda run, given: run.make(_urlquery(_shown(run, given))), 0, None),
    "call": Function(_call, 1, None),
    # upstream's own
    "json": Function(lambda run, given: gojson.encode(run, given[0]), 1, 1),
    "currentDate": Function(_date(0), 0, None, texts=-1),
    "yesterdayDate": Function(_date(1), 0, None, texts=-1),
    "toTypeScriptType": Function(lambda run, given: typescript(given[0]), 1, 1),
}

# those that Go itself brings: the only ones in the last render of a template without messages
BUILTIN = frozenset(FUNCTIONS) - {"json", "currentDate", "yesterdayDate", "toTypeScriptType"}


def _at_most(run: Run, first: Value, other: Value) -> bool:
    return compare.less(run, first, other) or compare.equal(run, first, other)
