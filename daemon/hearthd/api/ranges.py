"""Ranges and conditions of HTTP requests for content that never changes (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE = re.compile(r"bytes=\s*([0-9]{0,19})-([0-9]{0,19})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `first` to before `end`."""

    first: int
    end: int

    @property
    def num_bytes(self) -> int:
        """How many they are."""
        return self.end - self.first


class Unsatisfiable(ValueError):
    """A range that begins behind the content's end."""


def parse_range(header: str, size: int) -> Span | None:
    """The single range that a Range header asks for, cut to `size` bytes; Unsatisfiable where nothing is left.

    None where there is no header, or one that a server may ignore: another unit, several ranges, no sense.
    """
    match = _SINGLE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        span = Span(max(0, size - int(match[2])), size)
    else:
        span = Span(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)
        if match[2] and int(match[2]) < span.first:
            return None
    if span.num_bytes <= 0:
        raise Unsatisfiable
    return span


def is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client of this If-None-Match header has the content already."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags


def is_same(if_range: str, etag: str) -> bool:
    """Whether the client of this If-Range header wants a range of this content; without a header it does."""
    return if_range in ("", etag)
