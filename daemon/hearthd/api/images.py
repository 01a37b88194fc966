"""Images of a request: base64 text, checked as clients know it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hearthd.errors import BadRequest

_OTHER = re.compile(r"[^A-Za-z0-9+/\r\n]")


def check_images(images: Iterable[str]) -> None:
    """BadRequest where one is not standard base64 with padding, naming the offset of what is wrong."""
    for image in images:
        offset = _fault(image)
        if offset is not None:
            raise BadRequest(f"illegal base64 data at input byte {offset}")


def _fault(text: str) -> int | None:
    """Where `text` stops being base64 (RFC 4648, section 4; line ends are allowed); None where it is."""
    other = _OTHER.search(text)
    end = other.start() if other else len(text)
    num_letters = end - text.count("\r", 0, end) - text.count("\n", 0, end)
    over = num_letters % 4
    if other is None:
        return end - over if over else None  # where the incomplete group begins
    if other[0] != "=" or over < 2:
        return end
    return _padding_fault(text, end + 1, 3 - over)


def _padding_fault(text: str, at: int, num_missing: int) -> int | None:
    """After the first `=`: as many more as the length wants, then nothing but line ends."""
    for _ in range(num_missing):
        at = _after_line_ends(text, at)
        if at == len(text):
            return at
        if text[at] != "=":
            return at - 1
        at += 1
    at = _after_line_ends(text, at)
    return None if at == len(text) else at


def _after_line_ends(text: str, at: int) -> int:
    while at < len(text) and text[at] in "\r\n":
        at += 1
    return at
