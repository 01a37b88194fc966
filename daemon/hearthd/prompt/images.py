"""Where the images of a conversation stand in its text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import msgspec

from hearthd.prompt.conversation import Turn

PLACE = "[img]"  # where the client wants the next image


def marked(turns: Iterable[Turn]) -> list[Turn]:
    """`turns` with a mark `[img-N]` an image in their content, numbered through the conversation.

    An image takes the first place `[img]` of its message, or stands in front of the text.
    """
    numbers = count()
    return [_marked(turn, [f"[img-{next(numbers)}]" for _ in turn.images]) if turn.images else turn for turn in turns]


def _marked(turn: Turn, marks: list[str]) -> Turn:
    content, front = turn.content, ""
    for mark in marks:
        if PLACE in content:
            content = content.replace(PLACE, mark, 1)
        else:
            front += mark
    return msgspec.structs.replace(turn, content=front + content)
