"""Nemotron: `<toolcall> {"name": …, "arguments": {…}} </toolcall>`, stray list brackets included."""

from __future__ import annotations

from hearthd.prompt.toolcalls.marked import JsonBlocks


class Nemotron(JsonBlocks):
    blocks = (("<toolcall>", "</toolcall>"), ("<TOOLCALL>", "</TOOLCALL>"))
    marks = ("<toolcall>", "<TOOLCALL>")
    visible = ("<toolcall>", "</toolcall>", "<TOOLCALL>", "</TOOLCALL>")
    between = ",]}"
