"""Dialects whose calls stand behind marks of their own."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from hearthd.prompt.conversation import Tool, ToolCall, ToolFunction
from hearthd.prompt.toolcalls.cursor import Cursor, Reading
from hearthd.prompt.toolcalls.dialect import MAX_CALLS, numbered
from hearthd.prompt.toolcalls.envelope import calls_in
from hearthd.prompt.toolcalls.marks import Marks
from hearthd.prompt.toolcalls.scan import NotACall

MAX_CALL_CHARS = 1 << 18  # held back while a call is read
MAX_REREAD_CHARS = 1 << 20  # of one answer, after failed readings
MAX_BLANKS = 256  # held back behind a call

compiled = functools.cache(Marks)


class MarkedParser(ABC):
    """Releases text up to a mark, and lets `read` have what follows it.

    A reading that fails gives its text back, and the search goes on behind the mark. Blanks between
    calls, and behind the last one, are dropped.
    """

    marks: ClassVar[tuple[str, ...]] = ()
    starts: ClassVar[tuple[str, ...]] = ()  # single characters, marks where nothing but blanks came before
    visible: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tools: Sequence[Tool], tag: str = "") -> None:
        self.tools: Mapping[str, ToolFunction] = {tool.function.name: tool.function for tool in tools}
        self._marks = compiled(self.marks)
        self._cursor = Cursor()
        self._from = 0  # the cursor's text before this is released or read
        self._reading: Reading | None = None
        self._mark = ""  # of the reading, until it found a call
        self._num_calls = 0
        self._num_reread = 0
        self._is_start = bool(self.starts)
        self._is_after_call = False

    @abstractmethod
    def read(self, cursor: Cursor, mark: str) -> Reading:
        """Reads the calls behind `mark`, where the cursor stands. Raises NotACall at what is none."""

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        if self._is_idle() and not self._marks.may_begin_in(text):
            return text, []
        if self._reading is None:
            self._cursor.text = self._cursor.text[self._from :]
            self._from = 0
        self._cursor.text += text
        return self._run()

    def flush(self) -> tuple[str, list[ToolCall]]:
        self._cursor.is_final = True
        return self._run()

    def _is_idle(self) -> bool:
        is_held = self._reading is not None or self._from < len(self._cursor.text)
        return not (is_held or self._is_start or self._is_after_call)

    def _run(self) -> tuple[str, list[ToolCall]]:
        content: list[str] = []
        calls: list[ToolCall] = []
        while self._reading is not None or self._seek(content):
            if not self._read_on(content, calls):
                break
        return "".join(content), calls

    def _seek(self, content: list[str]) -> bool:
        """Releases what precedes the next mark; whether there is one, whose reading then begins."""
        cursor = self._cursor
        at, mark = self._find()
        end = len(cursor.text) if at < 0 or (cursor.is_final and not mark) else at
        if self._is_after_call and self._drops_blanks(end, bool(mark)):
            return False
        self._release(end, content)
        if mark:
            cursor.at = end + len(mark)
            self._mark = mark
            self._reading = self.read(cursor, mark)
        return bool(mark)

    def _find(self) -> tuple[int, str]:
        text = self._cursor.text
        if self._is_start:
            rest = text[self._from :].lstrip()
            if rest.startswith(self.starts):
                return len(text) - len(rest), rest[0]
        return self._marks.find(text, self._from)

    def _drops_blanks(self, end: int, is_mark: bool) -> bool:
        """Whether blanks behind a call have to wait; drops them once nothing but another call follows."""
        before = self._cursor.text[self._from : end]
        if before.strip() or len(before) > MAX_BLANKS:
            self._is_after_call = False
        elif is_mark or self._cursor.is_final:
            self._from = end
        else:
            return True
        return False

    def _release(self, end: int, content: list[str]) -> None:
        text = self._cursor.text[self._from : end]
        self._from = end
        if text:
            content.append(text)
            self._is_start = self._is_start and text.isspace()

    def _read_on(self, content: list[str], calls: list[ToolCall]) -> bool:
        """Reads as far as the text goes; False: more is wanted."""
        assert self._reading is not None
        try:
            for call in self._reading:
                if call is None:
                    if len(self._cursor.text) - self._from <= MAX_CALL_CHARS:
                        return False
                    raise NotACall
                self._found(call, calls)
            if self._mark:
                raise NotACall
            self._from, self._is_after_call = self._cursor.at, True
        except NotACall:
            self._fail(content)
        self._reading = None
        return True

    def _found(self, call: ToolCall, calls: list[ToolCall]) -> None:
        if self._num_calls >= MAX_CALLS:
            raise NotACall
        calls.append(numbered(call, self._num_calls))
        self._num_calls += 1
        self._from, self._mark = self._cursor.at, ""

    def _fail(self, content: list[str]) -> None:
        self._is_after_call = False
        size = len(self._cursor.text) - self._from
        self._num_reread += size
        is_spent = size > MAX_CALL_CHARS or self._num_reread > MAX_REREAD_CHARS
        self._release(len(self._cursor.text) if is_spent else self._from + len(self._mark), content)


class JsonBlocks(MarkedParser):
    """Dialects that write calls as JSON between an opening and a closing mark; the closing one may be missing."""

    blocks: ClassVar[tuple[tuple[str, str], ...]] = ()  # opening and closing marks
    between: ClassVar[str] = ","  # characters let through beside and between the values

    def read(self, cursor: Cursor, mark: str) -> Reading:
        return read_values(cursor, self.tools, dict(self.blocks)[mark], self.between)


def read_values(cursor: Cursor, names: Collection[str], closing: str, between: str = ",") -> Reading:
    """Reads JSON values one after another, and the closing mark, if it follows."""
    while True:
        start = cursor.at
        first = yield from cursor.blanks(between)
        if closing and (yield from cursor.take(closing)):
            return
        if first not in ("{", "["):
            cursor.at = start if first else cursor.at
            return
        yield from calls_in((yield from cursor.value()), names)
