"""xLAM: the whole answer is `{"tool_calls": [{"name": …, "arguments": {…}}]}`, or that list alone."""

from __future__ import annotations

from hearthd.prompt.toolcalls.cursor import Cursor, Reading
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values


class XLam(MarkedParser):
    starts = ("{", "[")

    def read(self, cursor: Cursor, mark: str) -> Reading:
        cursor.at -= 1
        return read_values(cursor, self.tools, "")
