"""Granite 3: `<|tool_call|>[{"name": …, "arguments": {…}}]`; 3.1 and later spell the mark `<tool_call>`."""

from __future__ import annotations

from hearthd.prompt.toolcalls.marked import JsonBlocks


class Granite(JsonBlocks):
    blocks = (("<|tool_call|>", "<|/tool_call|>"), ("<tool_call>", "</tool_call>"))
    marks = ("<|tool_call|>", "<tool_call>")
    visible = ("<|tool_call|>", "<|/tool_call|>", "<tool_call>", "</tool_call>")
