"""Command R: `Action: ```json [{"tool_name": …, "parameters": {…}}] ```; R7B: `<|START_ACTION|>[…]<|END_ACTION|>`."""

from __future__ import annotations

from hearthd.prompt.toolcalls.cursor import Cursor, Reading
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values
from hearthd.prompt.toolcalls.scan import NotACall

START, END = "<|START_ACTION|>", "<|END_ACTION|>"


class CommandR(MarkedParser):
    marks = ("Action:", START)
    visible = (START, END)

    def read(self, cursor: Cursor, mark: str) -> Reading:
        if mark == START:
            yield from read_values(cursor, self.tools, END)
            return
        yield from cursor.blanks()
        if not (yield from cursor.take("```json")):
            raise NotACall
        yield from read_values(cursor, self.tools, "```")
