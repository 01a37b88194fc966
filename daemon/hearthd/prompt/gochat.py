"""Conversations to prompts by a template of Go's language: one render for all messages, or one for each exchange."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec

from hearthd.prompt.conversation import Conversation, Turn
from hearthd.prompt.gotemplate import chat
from hearthd.prompt.gotemplate.budget import MAX_CHARS, MAX_STEPS, Run
from hearthd.prompt.gotemplate.errors import TemplateError
from hearthd.prompt.gotemplate.parser import parse
from hearthd.prompt.gotemplate.template import Template

MAX_KEPT_TEMPLATES = 8

_STEPS_PER_TURN = 200


@lru_cache(maxsize=MAX_KEPT_TEMPLATES)
def go_template(text: str) -> GoTemplate:
    """The template that `text` is, parsed once. TemplateError where it is none."""
    return GoTemplate(text)


class GoTemplate:
    """A parsed template and the way in which it wants its conversation."""

    def __init__(self, text: str, *, bare_functions: bool = False) -> None:
        """TemplateError where `text` is no template. `bare_functions`: as in `chat.tools`."""
        self.parsed = parse(text)
        self._whole: Template = self.parsed.with_response()
        self._cut: Template | None = None
        self._bare_functions = bare_functions

    @property
    def identifiers(self) -> frozenset[str]:
        """The names of fields and variables in the text, in lower case."""
        return self.parsed.identifiers

    @property
    def takes_messages(self) -> bool:
        """Whether it is given all messages, tools among them, at once."""
        return "messages" in self.parsed.identifiers

    def render(self, conversation: Conversation) -> str:
        """The prompt that asks for the next answer; a last message of the assistant is left open.

        TemplateError where the template cannot be run on this conversation.
        """
        turns = collate(conversation.turns)
        if not self.takes_messages:
            return self._render_exchanges(turns, conversation)
        try:
            return self._render_messages(turns, conversation)
        except RecursionError:
            raise TemplateError("template: tools or arguments of calls are nested too deep") from None

    def _render_messages(self, turns: list[Turn], conversation: Conversation) -> str:
        names = {
            "System": system_of(conversation.turns),
            "Messages": chat.messages(turns),
            "Tools": chat.tools(conversation.tools, bare=self._bare_functions),
            "Response": "",
            **_thinking(conversation),
        }
        return self._whole.execute(chat.root(names), _allowance(conversation))

    def render_insert(self, prompt: str, suffix: str, conversation: Conversation) -> str:
        """The prompt that asks for what stands between `prompt` and `suffix`."""
        names = {"Prompt": prompt, "Suffix": suffix, "Response": "", **_thinking(conversation)}
        return self._whole.execute(chat.root(names), _allowance(conversation, len(prompt) + len(suffix)))

    def _render_exchanges(self, turns: list[Turn], conversation: Conversation) -> str:
        """One render for each system, user and assistant text; the last one ends with the response."""
        run, thinking = _allowance(conversation), _thinking(conversation)
        *whole, last = _exchanges(turns)
        written = [self._whole.execute(chat.root({**exchange, **thinking}), run) for exchange in whole]
        if self._cut is None:
            self._cut = self._whole.cut()
        return "".join([*written, self._cut.execute(chat.root({**last, **thinking}), run)])


def collate(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbours of one role become one, their texts joined by a blank line; results of tools stay apart."""
    found: list[Turn] = []
    for role, group in groupby(turns, key=lambda turn: turn.role):
        first, *others = group
        if others and role != "tool":
            content = "\n\n".join([first.content, *(turn.content for turn in others)])
            first, others = msgspec.structs.replace(first, content=content), []
        found.append(first)
        found += others
    return found


def system_of(turns: Iterable[Turn]) -> str:
    """All system texts, joined by a blank line."""
    return "\n\n".join([turn.content for turn in turns if turn.role == "system"])


def _exchanges(turns: list[Turn]) -> list[dict[str, str]]:
    """What each render is given, the open one last."""
    found = [_exchange()]
    for turn in turns:
        now = found[-1]
        if (turn.role == "system" and (now["Prompt"] or now["Response"])) or (turn.role == "user" and now["Response"]):
            now = _exchange()
            found.append(now)
        name = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(turn.role)
        if name is not None:
            now[name] = turn.content
    return found


def _exchange() -> dict[str, str]:
    return {"System": "", "Prompt": "", "Response": ""}


def _thinking(conversation: Conversation) -> dict[str, Any]:
    return {
        "Think": bool(conversation.think),
        "ThinkLevel": conversation.think_level,
        "IsThinkSet": conversation.think is not None,
    }


def _allowance(conversation: Conversation, num_chars: int = 0) -> Run:
    """A long conversation may take longer, and write what it holds."""
    num_chars += sum(len(turn.content) + len(turn.thinking) for turn in conversation.turns)
    return Run(steps=MAX_STEPS + _STEPS_PER_TURN * len(conversation.turns), chars=MAX_CHARS + 2 * num_chars)
