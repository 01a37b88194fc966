"""FireFunction: ` functools[{"name": …, "arguments": {…}}, …]`."""

from __future__ import annotations

from hearthd.prompt.toolcalls.cursor import Cursor, Reading
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values


class FireFunction(MarkedParser):
    marks = ("functools[",)

    def read(self, cursor: Cursor, mark: str) -> Reading:
        cursor.at -= 1  # the list's own bracket
        return read_values(cursor, self.tools, "")
