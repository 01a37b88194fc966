"""Conversations to prompts: the model's chat template, in whichever language it is written."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Conversation, Tool, ToolCall, Turn
from hearthd.prompt.speech import Speech, of_go, of_jinja

if TYPE_CHECKING:
    from hearthd.prompt.gochat import GoTemplate


class Specials(msgspec.Struct, frozen=True):
    """The special tokens' text that a template may ask for, and whether tokenizing puts BOS in front by itself."""

    bos: str = ""
    eos: str = ""
    adds_bos: bool = False


class ChatTemplate(Protocol):
    """Makes prompts the model's way."""

    @property
    def speech(self) -> Speech:
        """How the model marks its thoughts and its calls."""

    def render(self, conversation: Conversation) -> str:
        """The prompt that asks for the next assistant message; a last one of the assistant is left open.

        Raises HearthError where the template refuses, fails or does too much.
        """

    def render_insert(self, prompt: str, suffix: str, conversation: Conversation) -> str:
        """The prompt that asks for what stands between `prompt` and `suffix`. Raises as `render`."""


@dataclass(frozen=True, slots=True)
class GoChat:
    """A template in Go's language: a TEMPLATE of the model or of the request."""

    template: GoTemplate
    speech: Speech

    def render(self, conversation: Conversation) -> str:
        return self.template.render(conversation)

    def render_insert(self, prompt: str, suffix: str, conversation: Conversation) -> str:
        return self.template.render_insert(prompt, suffix, conversation)


class JinjaChat(msgspec.Struct, frozen=True):
    """The checkpoint's own template."""

    text: str
    specials: Specials
    speech: Speech

    def render(self, conversation: Conversation) -> str:
        from hearthd.prompt import jinja

        turns = conversation.turns
        is_open = bool(turns) and turns[-1].role == "assistant" and not turns[-1].tool_calls
        text = jinja.render(
            self.text,
            messages=[_variables(turn) for turn in (turns[:-1] if is_open else turns)],
            tools=[_described(tool) for tool in conversation.tools] or None,
            documents=None,
            add_generation_prompt=True,
            bos_token=self.specials.bos,
            eos_token=self.specials.eos,
            **_thinking(conversation),
        )
        return self._without_bos(text) + (turns[-1].content if is_open else "")

    def render_insert(self, prompt: str, suffix: str, conversation: Conversation) -> str:
        raise BadRequest("the model's template has no place for a suffix")

    def _without_bos(self, text: str) -> str:
        """A template's BOS is dropped where the tokenizer adds one: twice would be one too many."""
        return text.removeprefix(self.specials.bos) if self.specials.adds_bos else text


@functools.lru_cache(maxsize=8)
def go_chat(text: str) -> ChatTemplate:
    """The template `text`. Raises TemplateError naming the line of what is wrong."""
    from hearthd.prompt.gochat import go_template  # an idle daemon has no use for them
    from hearthd.prompt.gotags import thinking_tags, tool_tag

    template = go_template(text)
    return GoChat(template, of_go(text, thinking_tags(template.parsed), tool_tag(template.parsed)))


@functools.lru_cache(maxsize=8)
def jinja_chat(text: str, specials: Specials) -> ChatTemplate:
    """The checkpoint's template `text`; it is read when it is first rendered."""
    return JinjaChat(text, specials, of_jinja(text))


def _variables(turn: Turn) -> dict[str, Any]:
    """A message as published templates know it; what it lacks is not there."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.thinking:
        message["reasoning_content"] = message["thinking"] = turn.thinking
    if turn.tool_calls:
        message["tool_calls"] = [_call(call) for call in turn.tool_calls]
    if turn.tool_name:
        message["name"] = message["tool_name"] = turn.tool_name
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    return message


def _described(tool: Tool) -> dict[str, Any]:
    """A tool as published templates know it: they walk its parameters without asking whether it has any."""
    described: dict[str, Any] = {"type": "function"} | msgspec.to_builtins(tool)
    function = described.setdefault("function", {})
    function["parameters"] = {"type": "object"} | function.get("parameters", {})
    function["parameters"].setdefault("properties", {})
    return described


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


def _thinking(conversation: Conversation) -> dict[str, Any]:
    """The switches that templates of thinking models look at."""
    if conversation.think is None:
        return {}
    switches: dict[str, Any] = {"enable_thinking": conversation.think, "thinking": conversation.think}
    return switches | ({"reasoning_effort": conversation.think_level} if conversation.think_level else {})
