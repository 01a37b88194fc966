"""The general JSON dialect: a tag, then anything that names a known tool and gives it a JSON object.

The tag comes from the model's template. As in Ollama, text behind the tag is read for calls alone:
closing marks are not known, so what stands beside the calls is no content. Where no call comes, the
text is released, but for a call that the answer's end cut off. The tags `{` and `[` count where the answer
begins with them, up to the bracket that closes them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

from hearthd.prompt.conversation import Tool, ToolCall
from hearthd.prompt.toolcalls.dialect import MAX_CALLS, numbered
from hearthd.prompt.toolcalls.envelope import calls_in, is_envelope
from hearthd.prompt.toolcalls.marked import MAX_CALL_CHARS, compiled
from hearthd.prompt.toolcalls.scan import NotACall, Scan, decode

BRACKETS = ("{", "[")
MAX_HEAD_CHARS = 1024  # before an object, searched for a name


class Stage(enum.Enum):
    """Where in the answer the parser is."""

    TEXT = enum.auto()  # no tag so far
    CALLS = enum.auto()
    PLAIN = enum.auto()  # no call can come any more


class Tagged:
    """Reads one answer. An empty `tag` stands for `{`."""

    visible: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tools: Sequence[Tool], tag: str = "") -> None:
        self._names = frozenset(tool.function.name for tool in tools)
        self._tag = tag or "{"
        self._marks = compiled((self._tag,))
        self._stage = Stage.TEXT
        self._held = ""
        self._objects = Objects()
        self._outer = Scan() if self._tag in BRACKETS else None  # of what a bracket tag opens
        self._num_scanned = 0  # of the held text, by `_outer`
        self._end = -1  # where that closes
        self._num_calls = 0

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        if self._stage is Stage.PLAIN:
            return text, []
        content = self._seek(text) if self._stage is Stage.TEXT else self._hold(text)
        if self._stage is not Stage.CALLS:
            return content, []
        calls = self._take_calls()
        return content + self._settled(), calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        is_cut_off = self._stage is Stage.CALLS and self._outer is None and self._objects.is_open
        held = self._give_up()
        return "" if self._num_calls or is_cut_off else held, []

    def _hold(self, text: str) -> str:
        self._held += text
        return ""

    def _seek(self, text: str) -> str:
        """The text before the tag; what may become the tag is held."""
        text = self._held + text
        at, mark = self._marks.find(text)
        at = len(text) if at < 0 else at
        before, self._held = text[:at], text[at:]
        if self._outer is not None and before.strip():
            return before + self._give_up()
        if mark:
            self._stage = Stage.CALLS
            self._objects.at = 0 if mark == "{" else len(mark)
        return before

    def _take_calls(self) -> list[ToolCall]:
        """The calls found by now; in a bracket that closes without one, what follows is not looked at."""
        if self._outer is not None and self._num_calls == 0:
            self._end = self._closing(self._outer)
        if self._end < 0:
            return self._calls_in(self._held)
        calls = self._calls_in(self._held[: self._end])
        return calls + self._calls_in(self._held) if self._num_calls else []

    def _closing(self, outer: Scan) -> int:
        start, self._num_scanned = self._num_scanned, len(self._held)
        try:
            return outer.feed(self._held, start)
        except NotACall:
            self._objects.is_too_deep = True
            return -1

    def _calls_in(self, text: str) -> list[ToolCall]:
        calls: list[ToolCall] = []
        for head, found in self._objects.found_in(text):
            for call in calls_of(head, found, self._names)[: MAX_CALLS - self._num_calls]:
                calls.append(numbered(call, self._num_calls))
                self._num_calls += 1
        return calls

    def _settled(self) -> str:
        """The held text, once it is certain that it holds no call."""
        if self._num_calls:
            self._held, self._end = self._objects.trim(self._held), -1
        is_settled = self._end >= 0 or self._objects.is_too_deep or len(self._held) > MAX_CALL_CHARS
        return self._give_up() if is_settled else ""

    def _give_up(self) -> str:
        held, self._held, self._stage = self._held, "", Stage.PLAIN
        return held


class Objects:
    """The JSON objects of a growing text, each found once."""

    def __init__(self) -> None:
        self.at = 0  # read so far
        self.is_open = False  # within an object
        self.is_too_deep = False  # no end of the object will be found
        self._head = 0  # where the text before the object begins
        self._start = 0
        self._scan = Scan()

    def found_in(self, text: str) -> Iterator[tuple[str, str]]:
        """Each object that is complete by now, behind the text before it."""
        while self.is_open or self._opens(text):
            end = self._feed(text)
            self.at = len(text) if end < 0 else end
            if end < 0:
                return
            yield text[self._head : self._start], text[self._start : end]
            self._head, self.is_open = end, False

    def _feed(self, text: str) -> int:
        try:
            return self._scan.feed(text, self.at)
        except NotACall:
            self.is_too_deep = True
            return -1

    def trim(self, text: str) -> str:
        """The text without the objects that were found."""
        cut, self._head = self._head, 0
        self._start, self.at = self._start - cut, self.at - cut
        return text[cut:]

    def _opens(self, text: str) -> bool:
        start = text.find("{", self.at)
        self.at = len(text) if start < 0 else start
        if start >= 0:
            self._start, self._scan, self.is_open = start, Scan(), True
        return self.is_open


def calls_of(head: str, text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls that the object `text` makes, by itself or as arguments of the tool that `head` ends with."""
    try:
        value = decode(text)
    except NotACall:
        return []
    try:
        return calls_in(value, names)
    except NotACall:
        name = "" if is_envelope(value) else last_name(head[-MAX_HEAD_CHARS:], names)
        return [ToolCall(name=name, arguments=value)] if name else []


def last_name(text: str, names: Collection[str]) -> str:
    """The last of `names` in the text, as a word of its own; "" where none is."""
    words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    found = re.findall(rf"(?<![\w-])(?:{words})(?![\w-])", text) if words else []
    return str(found[-1]) if found else ""
