"""Breaking a stream of text into lines between words, while it is being written."""

from __future__ import annotations

import unicodedata

MIN_COLUMNS = 10  # a terminal too narrow for words is left alone
_MARGIN = 5  # columns kept free at the right


def char_width(char: str) -> int:
    """Columns that `char` takes: 0, 1 or 2."""
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """Columns that `text` takes, which has no tabs and line ends."""
    return len(text) if text.isascii() else sum(map(char_width, text))


class Wrapper:
    """Text in, the same text with line breaks out.

    What comes in goes out at once; a word that turns out to be too long for its line is wiped and
    written again on the next one.
    """

    def __init__(self, num_columns: int) -> None:
        self.width = num_columns - _MARGIN if num_columns >= MIN_COLUMNS else 0
        self.column = 0
        self.word = ""  # what is on this line since its last blank

    def feed(self, text: str) -> str:
        """What to write for `text`."""
        return "".join(map(self._char, text)) if self.width else text

    def _char(self, char: str) -> str:
        if char in "\n\t ":
            return self._blank(char)
        width = char_width(char)
        prefix = self._break() if self.column + width > self.width else ""
        self.column += width
        self.word = "" if width == 2 else self.word + char  # between wide characters a line may break anywhere
        return prefix + char

    def _blank(self, char: str) -> str:
        self.word = ""
        if char == "\n" or self.column + 1 > self.width:
            self.column = 0
            return "\n"
        self.column += 8 - self.column % 8 if char == "\t" else 1
        return char

    def _break(self) -> str:
        word_width = text_width(self.word)
        if word_width == self.column:  # the word has the line for itself
            self.word, self.column = "", 0
            return "\n"
        self.column = word_width
        back = f"\x1b[{word_width}D" if word_width else ""
        return f"{back}\x1b[K\n{self.word}"
