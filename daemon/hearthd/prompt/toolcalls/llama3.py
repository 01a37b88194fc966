"""Llama 3.1 to 3.3: `{"name": …, "parameters": {…}}`, several with `;` between, or `[f(arg=value)]`.

They are calls where the answer begins with them, or anywhere behind `<|python_tag|>`. The form that
Llama 3.1 learnt for custom tools, `<function=name>{…}</function>`, is understood too.
"""

from __future__ import annotations

from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.toolcalls.cursor import Cursor, Reading, Waiting
from hearthd.prompt.toolcalls.marked import MarkedParser, read_values
from hearthd.prompt.toolcalls.pythonic import calls_in_python
from hearthd.prompt.toolcalls.scan import NotACall

PYTHON_TAG = "<|python_tag|>"
FUNCTION = "<function="


class Llama3(MarkedParser):
    marks = (PYTHON_TAG, FUNCTION)
    starts = ("{", "[")
    visible = (PYTHON_TAG,)

    def read(self, cursor: Cursor, mark: str) -> Reading:
        if mark == FUNCTION:
            yield from self._read_function(cursor)
            return
        cursor.at -= len(mark) if mark in self.starts else 0
        first = yield from cursor.blanks()
        if first == "{" or (first == "[" and (yield from self._is_json(cursor))):
            yield from read_values(cursor, self.tools, "", ",;")
        elif first == "[":
            yield from calls_in_python((yield from cursor.brackets("\"'")), self.tools)
        else:
            yield from self._read_python_call(cursor)

    def _is_json(self, cursor: Cursor) -> Waiting[bool]:
        start = cursor.at
        cursor.at += 1
        first = yield from cursor.blanks()
        cursor.at = start
        return first == "{"

    def _read_function(self, cursor: Cursor) -> Reading:
        name = yield from cursor.name(">")
        if name not in self.tools or (yield from cursor.blanks()) != "{":
            raise NotACall
        yield ToolCall(name=name, arguments=(yield from cursor.value()))
        yield from cursor.skip("</function>")

    def _read_python_call(self, cursor: Cursor) -> Reading:
        name = yield from cursor.name("(")
        cursor.at -= 1
        yield from calls_in_python(name + (yield from cursor.brackets("\"'")), self.tools)
