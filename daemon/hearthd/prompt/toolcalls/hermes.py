"""Hermes, Qwen 2.5 and 3, Llama 3 Groq: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`."""

from __future__ import annotations

from hearthd.prompt.toolcalls.marked import JsonBlocks


class Hermes(JsonBlocks):
    blocks = (("<tool_call>", "</tool_call>"),)
    marks = ("<tool_call>",)
    visible = ("<tool_call>", "</tool_call>")
