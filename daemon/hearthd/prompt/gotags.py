"""The marks around thoughts and in front of tool calls, told from where a template writes them."""

from __future__ import annotations

from collections.abc import Iterator

from hearthd.prompt.gotemplate.nodes import Action, Block, Branch, Field, Leap, Pipe, Text
from hearthd.prompt.gotemplate.template import Template

ANY_OBJECT = "{"


def thinking_tags(template: Template) -> tuple[str, str] | None:
    """The texts around `.Thinking` in the loop over the messages; None where one is missing."""
    opening, closing = "", ""
    for block in _blocks_with_thinking(template.root, None):
        first, last = block.nodes[0], block.nodes[-1]
        opening = first.text.strip() if isinstance(first, Text) else opening
        closing = last.text.strip() if isinstance(last, Text) else closing
    return (opening, closing) if opening and closing else None


def _blocks_with_thinking(block: Block, loop: Branch | None) -> Iterator[Block]:
    """The block around each `.Thinking`, where the loop around it is one over the messages."""
    for node in block.nodes:
        if isinstance(node, Text | Leap) or node.pipe is None:
            continue
        inner = node if isinstance(node, Branch) and node.kind == "range" else loop
        if inner is not None and _names(inner.pipe, "Messages"):
            for _ in range(_names(node.pipe, "Thinking")):
                yield block
        if isinstance(node, Branch):
            yield from _blocks_with_thinking(node.body, inner)
            if node.otherwise:
                yield from _blocks_with_thinking(node.otherwise, inner)


def _names(pipe: Pipe, name: str) -> int:
    """How often the pipeline names the field first."""
    return sum(
        _names(arg, name) if isinstance(arg, Pipe) else isinstance(arg, Field) and arg.names[0] == name
        for command in pipe.commands
        for arg in command.args
    )


def tool_tag(template: Template) -> str:
    """The first text in `if .ToolCalls` up to a `{`; "{" where there is none, and any JSON object may be a call."""
    branch = _tool_branch(template.root)
    text = _first_text(branch.body) if branch else None
    tag, _, _ = (text or "").replace("\r\n", "\n").partition("{")
    return tag.strip() or ANY_OBJECT


def _tool_branch(block: Block) -> Branch | None:
    for node in block.nodes:
        if not isinstance(node, Branch):
            continue
        if node.kind == "if" and _asks_for_calls(node.pipe):
            return node
        for inner in (node.body, node.otherwise):
            if inner is not None and (found := _tool_branch(inner)):
                return found
    return None


def _asks_for_calls(pipe: Pipe) -> bool:
    args = (arg for command in pipe.commands for arg in command.args)
    return any(isinstance(arg, Field) and "ToolCalls" in arg.names for arg in args)


def _first_text(block: Block) -> str | None:
    """The first text that is not blank, before any action on its level."""
    for node in block.nodes:
        if isinstance(node, Text):
            if node.text.strip():
                return node.text
        elif isinstance(node, Branch):
            return _first_text_in(node)
        elif isinstance(node, Action):
            return None
    return None


def _first_text_in(branch: Branch) -> str | None:
    found = _first_text(branch.body)
    return found if found is not None or branch.otherwise is None else _first_text(branch.otherwise)
