"""A place in text that is still growing: what readers of a dialect are written against.

A reader is a generator. It yields None where it needs more text, and a call where it found one.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.toolcalls.scan import NotACall, Scan, decode

T = TypeVar("T")
Waiting = Generator[None, None, T]
Reading = Generator[ToolCall | None, None, None]

MAX_NAME_CHARS = 256


class Cursor:
    """The text, how far it is read, and whether it is all there will be."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.is_final = False

    def more(self) -> Waiting[None]:
        """Waits for more text. Raises NotACall where none will come."""
        if self.is_final:
            raise NotACall
        yield None

    def blanks(self, also: str = "") -> Waiting[str]:
        """Skips blanks and the characters of `also`; the character that follows, or "" at the answer's end."""
        while True:
            while self.at < len(self.text) and (self.text[self.at].isspace() or self.text[self.at] in also):
                self.at += 1
            if self.at < len(self.text) or self.is_final:
                return self.text[self.at : self.at + 1]
            yield from self.more()

    def take(self, literal: str) -> Waiting[bool]:
        """Whether `literal` follows; if so it is skipped."""
        while not self.text.startswith(literal, self.at):
            if self.is_final or not literal.startswith(self.text[self.at :][: len(literal)]):
                return False
            yield from self.more()
        self.at += len(literal)
        return True

    def skip(self, literal: str) -> Waiting[None]:
        """Skips `literal` and the blanks before it, if that follows."""
        start = self.at
        if (yield from self.blanks()) and not (yield from self.take(literal)):
            self.at = start

    def until(self, literal: str, max_chars: int | None = None) -> Waiting[str]:
        """The text before the next `literal`, which is skipped. Raises NotACall where that is too long or missing."""
        start = look = self.at
        while (end := self.text.find(literal, look)) < 0:
            if max_chars is not None and len(self.text) - start > max_chars + len(literal):
                raise NotACall
            look = max(start, len(self.text) - len(literal) + 1)
            yield from self.more()
        if max_chars is not None and end - start > max_chars:
            raise NotACall
        self.at = end + len(literal)
        return self.text[start:end]

    def name(self, closing: str) -> Waiting[str]:
        """The name before `closing`, which is skipped. Raises NotACall where there is none."""
        return (yield from self.until(closing, MAX_NAME_CHARS)).strip()

    def brackets(self, quotes: str = '"') -> Waiting[str]:
        """The text of the bracketed value that follows."""
        start = look = self.at
        scan = Scan(quotes)
        while (end := scan.feed(self.text, look)) < 0:
            look = len(self.text)
            yield from self.more()
        self.at = end
        return self.text[start:end]

    def value(self) -> Waiting[Any]:
        """The JSON object or array that follows. Raises NotACall where it is malformed."""
        return decode((yield from self.brackets()))
