"""Number constants of the language: https://go.dev/ref/spec#Integer_literals."""

from __future__ import annotations

import re

from hearthd.prompt.gotemplate.quoting import quote, unquote_char

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1

_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*)\Z"
)
_FLOAT = re.compile(
    r"[+-]?(?:[0-9](?:_?[0-9])*\.?(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?\Z"
)
_HEX_FLOAT = re.compile(r"[+-]?0[xX][0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?[0-9]+\Z")


def character(literal: str) -> int:
    """The value of `'x'`. ValueError where it is none."""
    return unquote_char(literal)


def number(literal: str) -> int | float | None:
    """The value of a constant; None for an unsigned one that fits no int. ValueError says what is wrong."""
    if literal.endswith("i"):
        raise ValueError(f"complex numbers are not supported: {quote(literal)}")
    if _INTEGER.match(literal):
        value = _integer(literal)
        if INT_MIN <= value <= INT_MAX:
            return value
        if 0 <= value < 1 << 64:
            return None
        raise ValueError(f"integer overflow: {quote(literal)}")
    found = _float(literal)
    if found is None or found in (float("inf"), float("-inf")):
        raise ValueError(f"illegal number syntax: {quote(literal)}")
    if not any(mark in literal for mark in ".eEpP"):
        raise ValueError(f"integer overflow: {quote(literal)}")
    return found


def _integer(literal: str) -> int:
    bare = literal.replace("_", "")
    digits = bare.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return int(bare, 8)
    # a number of thousands of digits is too large anyway, and slow to read
    return int(bare[:64], 0)


def _float(literal: str) -> float | None:
    if _HEX_FLOAT.match(literal):
        try:
            return float.fromhex(literal.replace("_", ""))
        except (ValueError, OverflowError):
            return None
    return float(literal) if _FLOAT.match(literal) and "_" not in literal else None
