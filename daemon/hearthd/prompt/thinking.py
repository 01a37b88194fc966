"""Thoughts and answer told apart while the text arrives."""

from __future__ import annotations

import enum

import msgspec

BLANK = " \t\n\r\v\f\x85\xa0"


class Tags(msgspec.Struct, frozen=True):
    """What the model writes around its thoughts."""

    opening: str
    closing: str


class Stage(enum.Enum):
    """Where in the answer the parser is."""

    OPENING = enum.auto()  # nothing but blanks, or a part of the opening tag, so far
    REOPENING = enum.auto()  # the prompt opened the thoughts; the model may do so once more
    BEFORE_THOUGHTS = enum.auto()
    THINKING = enum.auto()
    BEFORE_CONTENT = enum.auto()
    CONTENT = enum.auto()


class ThinkingParser:
    """Splits an answer at its tags, whatever the pieces it comes in.

    Thoughts come first or not at all: a tag after other text is text. Blanks after either tag are
    dropped, blanks before an answer without thoughts are kept. With `is_open` the prompt already ended
    in the opening tag.
    """

    def __init__(self, tags: Tags, is_open: bool = False) -> None:
        self._tags = tags
        self._held = ""  # text that cannot be told yet
        self.stage = Stage.REOPENING if is_open else Stage.OPENING

    def feed(self, text: str) -> tuple[str, str]:
        """The thoughts and the content that `text` adds."""
        if self.stage is Stage.CONTENT:
            return "", text
        self._held += text
        self._open()
        return self._think(), self._content()

    def flush(self) -> tuple[str, str]:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        if self.stage in (Stage.REOPENING, Stage.BEFORE_THOUGHTS, Stage.THINKING):
            return held, ""
        return "", held

    def _open(self) -> None:
        if self.stage not in (Stage.OPENING, Stage.REOPENING):
            return
        start = self._held.lstrip(BLANK)
        if start.startswith(self._tags.opening):
            self._held = start[len(self._tags.opening) :]
            self.stage = Stage.BEFORE_THOUGHTS
        elif not self._tags.opening.startswith(start):
            self.stage = Stage.CONTENT if self.stage is Stage.OPENING else Stage.BEFORE_THOUGHTS

    def _think(self) -> str:
        if self.stage is Stage.BEFORE_THOUGHTS:
            self._held = self._held.lstrip(BLANK)
            if not self._held:
                return ""
            self.stage = Stage.THINKING
        if self.stage is not Stage.THINKING:
            return ""
        thoughts, closing, rest = self._held.partition(self._tags.closing)
        if closing:
            self.stage, self._held = Stage.BEFORE_CONTENT, rest
            return thoughts
        cut = len(thoughts) - num_shared(thoughts, self._tags.closing)
        self._held = thoughts[cut:]
        return thoughts[:cut]

    def _content(self) -> str:
        if self.stage is Stage.BEFORE_CONTENT:
            self._held = self._held.lstrip(BLANK)
            if self._held:
                self.stage = Stage.CONTENT
        if self.stage is not Stage.CONTENT:
            return ""
        content, self._held = self._held, ""
        return content


def num_shared(text: str, tag: str) -> int:
    """How many characters at the end of `text` are the beginning of `tag`, which `text` does not hold."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)
