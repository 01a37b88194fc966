"""Phi-4-mini: `<|tool_call|>[{"name": …, "arguments": {…}}]<|/tool_call|>`, or `functools[…]`."""

from __future__ import annotations

from hearthd.prompt.toolcalls.cursor import Cursor, Reading
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values


class Phi4(MarkedParser):
    marks = ("<|tool_call|>", "functools[")
    visible = ("<|tool_call|>", "<|/tool_call|>")

    def read(self, cursor: Cursor, mark: str) -> Reading:
        if mark == "functools[":
            cursor.at -= 1  # the list's own bracket
            return read_values(cursor, self.tools, "")
        return read_values(cursor, self.tools, "<|/tool_call|>")
