"""JSON values in text that a model writes: where one ends, and what it says."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MAX_DEPTH = 64  # of brackets in one call
MAX_INTEGER = 1 << 64
OUTSIDE = re.compile(r"""["'{}\[\]()]""")
INSIDE = {'"': re.compile(r'[\\"]'), "'": re.compile(r"[\\']")}


class NotACall(Exception):
    """The text is no call of a known tool."""


class Scan:
    """Finds the end of one bracketed value, reading each character once however the text is cut.

    `quotes` are the characters that strings stand between. Kinds of brackets are not told apart: who
    decodes the value finds out.
    """

    def __init__(self, quotes: str = '"') -> None:
        self._quotes = quotes
        self._quote = ""  # of the string that the scan is in
        self._is_escaped = False
        self._depth = 0

    def feed(self, text: str, start: int) -> int:
        """The index behind the value's last bracket, or -1: more is wanted, from `len(text)` on.

        Raises NotACall where brackets nest deeper than MAX_DEPTH.
        """
        at = start
        while at < len(text):
            at = self._in_string(text, at) if self._quote else self._step(text, at)
            if at < 0 or (self._depth == 0 and not self._quote):
                return at
        return -1

    def _in_string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        found = INSIDE[self._quote].search(text, at)
        if found is None:
            return -1
        self._is_escaped = found.group() == "\\"
        self._quote = self._quote if self._is_escaped else ""
        return found.end()

    def _step(self, text: str, at: int) -> int:
        found = OUTSIDE.search(text, at)
        if found is None:
            return -1
        character = found.group()
        if character in self._quotes:
            self._quote = character
        elif character in "{[(":
            self._depth += 1
        elif character in "}])":
            self._depth -= 1
        if self._depth > MAX_DEPTH:
            raise NotACall
        return found.end()


def decode(text: str) -> Any:
    """The JSON value of `text`, where raw line breaks in strings are let through: models write them in code.

    Raises NotACall where it is malformed or could not be sent on as JSON in UTF-8.
    """
    try:
        return sendable(DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        raise NotACall from error


def sendable(value: T) -> T:
    """The value itself. Raises NotACall where JSON in UTF-8 cannot hold it: a lone surrogate, say."""
    try:
        msgspec.json.encode(value)
    except (ValueError, RecursionError) as error:
        raise NotACall from error
    return value


def _integer(digits: str) -> int | float:
    number = int(digits)
    return number if abs(number) < MAX_INTEGER else _number(digits)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _constant(name: str) -> None:
    raise ValueError(name)


DECODER = json.JSONDecoder(strict=False, parse_int=_integer, parse_float=_number, parse_constant=_constant)
