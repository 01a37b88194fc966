"""Marks in a text that is still growing."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Marks:
    """Texts to watch for."""

    def __init__(self, marks: Sequence[str]) -> None:
        ordered = sorted(marks, key=len, reverse=True)
        self._marks = ordered
        self._num_longest = len(ordered[0]) if ordered else 0
        self._whole = re.compile("|".join(map(re.escape, ordered)) if ordered else "(?!)")
        self._first = re.compile("|".join({re.escape(mark[0]) for mark in ordered}) if ordered else "(?!)")

    def may_begin_in(self, text: str) -> bool:
        """Whether a mark, or a part of one, can begin in `text`: cheap, and True too often."""
        return self._first.search(text) is not None

    def find(self, text: str, start: int = 0) -> tuple[int, str]:
        """Where the first mark is and which one; `(at, "")` where the text's end may become one; `(-1, "")`."""
        if found := self._whole.search(text, start):
            return found.start(), found.group()
        for at in range(max(start, len(text) - self._num_longest + 1), len(text)):
            tail = text[at:]
            if any(mark.startswith(tail) for mark in self._marks):
                return at, ""
        return -1, ""
