"""DeepSeek V3 and R1: `<|tool▁call▁begin|>function<|tool▁sep|>name`, a fenced JSON object, `<|tool▁call▁end|>`.

V3.1 writes the name before the separator and the bare object behind it. The vocabularies have fullwidth
bars in these tokens; models that were taught by examples write plain ones.
"""

from __future__ import annotations

from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.toolcalls.cursor import MAX_NAME_CHARS, Cursor, Reading, Waiting
from hearthd.prompt.toolcalls.marked import MarkedParser
from hearthd.prompt.toolcalls.scan import NotACall

BARS = ("|", "｜")


def token(name: str, bar: str) -> str:
    return f"<{bar}{name}{bar}>"


def all_tokens(*names: str) -> tuple[str, ...]:
    return tuple(token(name, bar) for bar in BARS for name in names)


class DeepSeek(MarkedParser):
    marks = all_tokens("tool▁calls▁begin", "tool▁call▁begin")
    visible = all_tokens("tool▁calls▁begin", "tool▁call▁begin", "tool▁sep", "tool▁call▁end", "tool▁calls▁end")

    def read(self, cursor: Cursor, mark: str) -> Reading:
        bar = mark[1]
        if mark == token("tool▁call▁begin", bar):
            cursor.at -= len(mark)
        yield from cursor.blanks()
        while (yield from cursor.take(token("tool▁call▁begin", bar))):
            yield (yield from self._call(cursor, bar))
            for closing in ("```", token("tool▁call▁end", bar), token("tool▁calls▁end", bar)):
                yield from cursor.skip(closing)
            yield from cursor.skip(token("end▁of▁sentence", bar))

    def _call(self, cursor: Cursor, bar: str) -> Waiting[ToolCall]:
        name = yield from cursor.name(token("tool▁sep", bar))
        if (yield from cursor.blanks()) != "{":
            name = (yield from cursor.until("{", MAX_NAME_CHARS)).strip().removesuffix("```json").strip()
            cursor.at -= 1
        if name not in self.tools:
            raise NotACall
        return ToolCall(name=name, arguments=(yield from cursor.value()))
