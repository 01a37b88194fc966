"""Durations as Go writes them, and the keep_alive values made of them. All results are in nanoseconds.

duration = ["+" | "-"] ("0" | 1*(number unit))
number   = digits ["." [digits]] | "." digits
unit     = "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h"
"""

from __future__ import annotations

import re

FOREVER_NS = (1 << 63) - 1  # no timer; also the largest duration there is
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS

UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, Greek letter mu
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": MINUTE_NS,
    "h": 60 * MINUTE_NS,
}

MAX_CHARS = 100

_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")


def parse_duration(text: str) -> int:
    """Nanoseconds of `text`, cut toward zero. Raises ValueError with Go's sentence."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest or len(text) > MAX_CHARS:
        raise _invalid(text)
    total_ns = 0
    while rest:
        term = _TERM.match(rest)
        assert term is not None  # the pattern matches the empty string
        total_ns += _term_ns(text, term)
        rest = rest[term.end() :]
    if total_ns > FOREVER_NS:
        raise _invalid(text)
    return sign * total_ns


def keep_alive_ns(value: float | str) -> int:
    """How long a model stays loaded: a number is seconds, text a Go duration; negative is forever.

    Raises ValueError with Go's sentence for text that is no duration.
    """
    length_ns = parse_duration(value) if isinstance(value, str) else _seconds_ns(value)
    return FOREVER_NS if length_ns < 0 else length_ns


def _seconds_ns(seconds: float) -> int:
    if seconds < 0 or seconds >= FOREVER_NS / SECOND_NS:
        return FOREVER_NS
    return seconds * SECOND_NS if isinstance(seconds, int) else int(seconds * SECOND_NS)


def _term_ns(text: str, term: re.Match[str]) -> int:
    whole, fraction, unit = term.groups()
    if not whole and not fraction:
        raise _invalid(text)
    if not unit:
        raise ValueError(f'time: missing unit in duration "{text}"')
    if unit not in UNITS_NS:
        raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
    scale_ns = UNITS_NS[unit]
    part_ns = int(fraction) * scale_ns // int("1" + "0" * len(fraction)) if fraction else 0
    return int(whole or 0) * scale_ns + part_ns


def _invalid(text: str) -> ValueError:
    return ValueError(f'time: invalid duration "{text[:MAX_CHARS]}"')
