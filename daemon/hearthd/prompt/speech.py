"""How a model speaks: the marks of its thoughts and its tool calls, and the parser that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hearthd.prompt.conversation import Tool, ToolCall
from hearthd.prompt.thinking import BLANK, Tags, ThinkingParser
from hearthd.prompt.toolcalls.dialect import ToolParser, dialect_of

# closing tags that give a template of a thinking model away; many leave the opening one to the model
THOUGHTS = (
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<seed:think>", "</seed:think>"),
)

# all of these in the template -> dialect; the first row that fits counts
MARKS = (
    (("<tool_call>", "<function="), "qwen_xml"),
    (("<|tool_call|>", "<|tool|>"), "phi4"),
    (("<|tool_call|>",), "granite"),
    (("<tool_call>",), "hermes"),
    (("<toolcall>",), "nemotron"),
    (("<TOOLCALL>",), "nemotron"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|tool▁call",), "deepseek"),
    (("<｜tool▁call",), "deepseek"),
    (("<|START_ACTION|>",), "command_r"),
    (("Action:", "```json"), "command_r"),
    (("functools[",), "firefunction"),
    (('"tool_calls": [',), "xlam"),
    (("<|python_tag|>",), "llama3"),
    (("<|start_header_id|>",), "llama3"),
)


class Speech(msgspec.Struct, frozen=True):
    """What to look for in a model's answers. `tools` is a row of DIALECTS, "" where the model calls none."""

    thinking: Tags | None = None
    tools: str = ""
    tag: str = ""  # of the "tagged" dialect
    visible: tuple[str, ...] = ()  # marks that are to stay in the text even where they are special tokens


class Part(msgspec.Struct, frozen=True):
    """A stretch of an answer."""

    thinking: str = ""
    content: str = ""
    calls: list[ToolCall] = []


class AnswerParser:
    """Splits one answer into thoughts, content and calls, whatever the pieces it comes in.

    With `think` False nothing is taken for a thought: where the model thinks all the same, its thoughts
    and their tags are content, as in Ollama. Without `tools` nothing is taken for a call. Calls are
    looked for in the content alone.
    """

    def __init__(self, speech: Speech, tools: Sequence[Tool], *, think: bool, is_open: bool) -> None:
        tags = speech.thinking if think else None
        self._thinking = ThinkingParser(tags, is_open) if tags else None
        self._tools = tool_parser(speech, tools)

    def feed(self, text: str) -> Part:
        """What `text` adds."""
        thinking, content = self._thinking.feed(text) if self._thinking else ("", text)
        if self._tools is None or not content:
            return Part(thinking, content)
        return Part(thinking, *self._tools.feed(content))

    def flush(self) -> Part:
        """What was held back, once no more text comes."""
        thinking, content = self._thinking.flush() if self._thinking else ("", "")
        if self._tools is None:
            return Part(thinking, content)
        before, calls = self._tools.feed(content)
        after, last_calls = self._tools.flush()
        return Part(thinking, before + after, calls + last_calls)


def tool_parser(speech: Speech, tools: Sequence[Tool]) -> ToolParser | None:
    """A parser for one answer, or None where nothing can be called."""
    return dialect_of(speech.tools)(tools, speech.tag) if speech.tools and tools else None


def of_jinja(text: str) -> Speech:
    """What a Jinja template says of its model."""
    tags = next((tags for tags in THOUGHTS if tags.closing in text), None)
    return _speech(tags, _dialect(text) if "tools" in text or "tool_call" in text else "", "")


def of_go(text: str, thinking: tuple[str, str] | None, tool_tag: str) -> Speech:
    """What a Go template says of its model, given the tags found in its tree."""
    tags = Tags(*thinking) if thinking and all(thinking) else None
    return _speech(tags, _dialect(text) if re.search(r"\.Tool(s|Calls)\b", text) else "", tool_tag)


def opens_thinking(prompt: str, tags: Tags) -> bool:
    """Whether a prompt ends in the opening tag, blanks aside: the answer begins within the thoughts."""
    return prompt.rstrip(BLANK).endswith(tags.opening)


def _dialect(text: str) -> str:
    return next((name for marks, name in MARKS if all(mark in text for mark in marks)), "tagged")


def _speech(thinking: Tags | None, tools: str, tag: str) -> Speech:
    visible = dialect_of(tools).visible if tools else ()
    if tools == "tagged":
        visible += (tag,) if tag not in ("", "{", "[") else ()
    if thinking:
        visible += (thinking.opening, thinking.closing)
    return Speech(thinking, tools, tag if tools == "tagged" else "", visible)
