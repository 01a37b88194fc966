"""Messages to prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from hearthd.prompt import jinja


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation as a template sees it."""

    role: str
    content: str


class Specials(msgspec.Struct, frozen=True):
    """The special tokens' text that a template may ask for, and whether tokenizing puts BOS in front by itself."""

    bos: str = ""
    eos: str = ""
    adds_bos: bool = False


def render(turns: Sequence[Turn], template: str | None, specials: Specials) -> str:
    """The prompt that asks for the next assistant message.

    A last message of the assistant is left open, so that the model continues it. Without a template the
    prompt is the plain text of the user's and the assistant's messages. BadRequest where the template refuses.
    """
    if not template:
        return _plain(turns)
    is_open = bool(turns) and turns[-1].role == "assistant"
    shown = turns[:-1] if is_open else turns
    text = jinja.render(
        template,
        messages=[_variables(turn) for turn in shown],
        add_generation_prompt=True,
        bos_token=specials.bos,
        eos_token=specials.eos,
        tools=None,
        documents=None,
    )
    return _without_bos(text, specials) + (turns[-1].content if is_open else "")


def _variables(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.content}


def _without_bos(text: str, specials: Specials) -> str:
    """A template's BOS is dropped where the tokenizer adds one: twice would be one too many."""
    return text.removeprefix(specials.bos) if specials.adds_bos else text


def _plain(turns: Sequence[Turn]) -> str:
    """Neighbours of one role are joined by a blank line; a system message has no place in it."""
    parts = []
    for role, group in groupby(turns, key=lambda turn: turn.role):
        if role in ("user", "assistant"):
            parts.append("\n\n".join(turn.content for turn in group))
    return "".join(parts)
