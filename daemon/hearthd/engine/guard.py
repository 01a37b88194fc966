"""A guard against answers that say the same thing for ever."""

from __future__ import annotations

MAX_EQUAL_PIECES = 30  # in a row; one more and a loop is assumed


class RepeatGuard:
    """Notices a model that says the same piece again and again."""

    __slots__ = ("_count", "_last")

    def __init__(self) -> None:
        self._last = ""
        self._count = 0

    def loops(self, piece: str) -> bool:
        """Whether `piece`, blanks aside, came more than MAX_EQUAL_PIECES times in a row."""
        piece = piece.strip()
        self._count = self._count + 1 if piece == self._last else 1
        self._last = piece
        return self._count > MAX_EQUAL_PIECES
