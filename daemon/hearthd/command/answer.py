"""An answer on the terminal while it is being written."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing

from hearthd.command.replies import Chunk
from hearthd.command.spinner import Spinner
from hearthd.command.terminal import is_terminal, num_columns, plain
from hearthd.command.wrap import Wrapper

_OPENING = "Thinking...\n"
_CLOSING = "...done thinking.\n\n"
_GREY = "\x1b[90m"
_NORMAL = "\x1b[0m"


class Answer:
    """The text of one answer, shown as its chunks come in."""

    def __init__(self, *, wrap: bool, hide_thinking: bool = False) -> None:
        self.content = ""
        self.last = Chunk()
        self._has_reader = sys.stdout.isatty()
        self._is_terminal = is_terminal(sys.stdout)
        self._wrap = wrap and self._is_terminal
        self._hide_thinking = hide_thinking
        self._is_thinking = False
        self._wrapper = self._new_wrapper()

    def show(self, chunks: Generator[Chunk]) -> None:
        """Write all of it, a spinner before the first piece. What came before an exception is in `content`."""
        with closing(chunks), Spinner() as spinner:
            for chunk in chunks:
                content = chunk.message.content or chunk.response
                thinking = "" if self._hide_thinking else chunk.message.thinking or chunk.thinking
                if content or thinking or chunk.done:
                    spinner.stop()
                self._write_thinking(thinking)
                self._write_content(content)
                self.last = chunk
        self._end_thinking()

    def _write_thinking(self, text: str) -> None:
        if not text:
            return
        if not self._is_thinking:
            self._is_thinking = True
            self._write((_GREY if self._is_terminal else "") + _OPENING)
        self._write(self._wrapper.feed(self._safe(text)))

    def _end_thinking(self) -> None:
        if self._is_thinking:
            self._is_thinking = False
            self._write(("\n" if self._wrapper.column else "") + _CLOSING + (_NORMAL if self._is_terminal else ""))
            self._wrapper = self._new_wrapper()

    def _write_content(self, text: str) -> None:
        if text:
            self._end_thinking()
            self.content += text
            self._write(self._wrapper.feed(self._safe(text)))

    def _safe(self, text: str) -> str:
        """A model's text must not steer the terminal."""
        return plain(text) if self._has_reader else text

    def _new_wrapper(self) -> Wrapper:
        return Wrapper(num_columns() if self._wrap else 0)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
