"""Mistral: `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name[ARGS]{…}` of later models.

Small models leave the mark out and write the bare list, which is then told by its first key.
"""

from __future__ import annotations

from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.toolcalls.cursor import MAX_NAME_CHARS, Cursor, Reading, Waiting
from hearthd.prompt.toolcalls.envelope import KEYS, calls_in
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values
from hearthd.prompt.toolcalls.scan import NotACall


class Mistral(MarkedParser):
    marks = ("[",)
    visible = ("[TOOL_CALLS]", "[/TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

    def read(self, cursor: Cursor, mark: str) -> Reading:
        if not (yield from cursor.take("TOOL_CALLS]")):
            yield from self._read_bare_list(cursor)
        elif (yield from cursor.blanks()) in ("{", "["):
            yield from read_values(cursor, self.tools, "[/TOOL_CALLS]")
        else:
            yield from self._read_named(cursor)

    def _read_bare_list(self, cursor: Cursor) -> Reading:
        start = cursor.at - 1
        if not (yield from self._is_list_of_calls(cursor)):
            raise NotACall
        cursor.at = start
        yield from calls_in((yield from cursor.value()), self.tools)

    def _is_list_of_calls(self, cursor: Cursor) -> Waiting[bool]:
        for opening in '{"':
            if (yield from cursor.blanks()) != opening:
                return False
            cursor.at += 1
        return (yield from cursor.until('"', MAX_NAME_CHARS)) in KEYS

    def _read_named(self, cursor: Cursor) -> Reading:
        """Reads `name[CALL_ID]id[ARGS]{…}`, of which the parts in square brackets may be missing."""
        head = yield from cursor.until("{", MAX_NAME_CHARS)
        name = head.partition("[")[0].strip()
        if name not in self.tools:
            raise NotACall
        cursor.at -= 1
        yield ToolCall(name=name, arguments=(yield from cursor.value()))
        yield from cursor.skip("[/TOOL_CALLS]")
