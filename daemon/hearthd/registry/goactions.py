"""Mistakes in a template of Go's language that show without running it: actions, blocks, names.

The language: https://pkg.go.dev/text/template. What is checked here is its outline; a template that passes may still
fail when it is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hearthd.errors import BadRequest

MAX_CHARS = 1 << 20

_OPENING = ("if", "range", "with", "block", "define")
_WORDS = frozenset((*_OPENING, "else", "end", "template", "break", "continue", "true", "false", "nil"))
_FUNCTIONS = frozenset((
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf",
    "println", "slice", "urlquery",
    "currentDate", "json", "toTypeScriptType", "yesterdayDate",
))  # fmt: skip

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<broken>["`'])"""
    r"""|(?P<variable>\$\w*)"""
    r"""|(?P<field>\.\w+)"""
    r"""|(?P<word>[^\W\d]\w*)"""
    r"""|(?P<end>-?}})"""
    r"""|(?P<other>[^\s"'`$}]|\s+|})""",
    re.DOTALL,
)
_COMMENT = re.compile(r"{{(?:-\s+)?/\*.*?\*/(?:\s+-)?}}", re.DOTALL)
_TRIM = re.compile(r"{{-\s")


class _Token(NamedTuple):
    kind: str
    text: str


def check_template(text: str) -> None:
    """Raises BadRequest saying what is wrong with the Go template, and in which line, if something is."""
    if len(text) > MAX_CHARS:
        raise BadRequest(f"template error: the template has more than {MAX_CHARS} characters")
    blocks: list[str] = []
    variables = {"$"}
    calls: list[tuple[int, str]] = []
    defined: set[str] = set()
    for line, action in _actions(text):
        first = action[0] if action else _Token("", "")
        _check_names(line, action, variables)
        if first.text in ("block", "define") and len(action) > 1:
            defined.add(action[1].text)
        elif first.text == "template" and len(action) > 1:
            calls.append((line, action[1].text))
        _check_block(line, action, blocks)
    if blocks:
        raise _error(text.count("\n") + 1, f"unexpected EOF: the {blocks[-1]} has no end")
    for line, name in calls:
        if name not in defined:
            raise _error(line, f"undefined template specified: {name}")


def _actions(text: str) -> Iterator[tuple[int, list[_Token]]]:
    """The line and the tokens of each action."""
    at, counted, line = 0, 0, 1
    while (start := text.find("{{", at)) >= 0:
        line += text.count("\n", counted, start)
        counted = start
        if comment := _COMMENT.match(text, start):
            at = comment.end()
            continue
        if text.startswith("/*", start + 2):
            raise _error(line, "unclosed comment")
        trim = _TRIM.match(text, start)
        tokens, at = _tokens(text, trim.end() if trim else start + 2, line)
        yield line, tokens


def _tokens(text: str, at: int, line: int) -> tuple[list[_Token], int]:
    """The tokens of the action that begins at `at`, and where it ends."""
    found: list[_Token] = []
    while match := _TOKEN.match(text, at):
        at = match.end()
        kind = str(match.lastgroup)
        if kind == "end":
            return found, at
        if kind == "broken":
            raise _error(line, "unterminated quoted string")
        if match[0] == "}":
            raise _error(line, "unexpected } in an action")
        if not match[0].isspace():
            found.append(_Token(kind, match[0]))
    raise _error(line, "unclosed action")


def _check_names(line: int, action: list[_Token], variables: set[str]) -> None:
    """Functions must exist; a variable must have been declared, in this action or before."""
    words = [token.text for token in action]
    if ":=" in "".join(words):
        declared = action[: next(at for at, token in enumerate(action) if token.text == ":")]
        variables |= {token.text for token in declared if token.kind == "variable"}
    for token in action:
        if token.kind == "word" and token.text not in _WORDS | _FUNCTIONS:
            raise _error(line, f'function "{token.text[:80]}" not defined')
        if token.kind == "variable" and token.text not in variables:
            raise _error(line, f'undefined variable "{token.text[:80]}"')


def _check_block(line: int, action: list[_Token], blocks: list[str]) -> None:
    """Follow what opens, continues and ends a block."""
    words = [token.text for token in action]
    first = words[0] if words else ""
    if not words:
        raise _error(line, "missing value for command")
    if first in _OPENING:
        if len(words) == 1:
            raise _error(line, f"missing value for {first}")
        blocks.append(first)
    elif first == "else":
        if not blocks or blocks[-1] in ("block", "define"):
            raise _error(line, "unexpected {{else}}")
        if words[1:] in (["if"], ["with"]):
            raise _error(line, f"missing value for {words[1]}")
    elif first == "end":
        if not blocks:
            raise _error(line, "unexpected {{end}}")
        blocks.pop()
    elif first in ("break", "continue") and "range" not in blocks:
        raise _error(line, f"{{{{{first}}}}} outside {{{{range}}}}")


def _error(line: int, message: str) -> BadRequest:
    return BadRequest(f"template error: template: :{line}: {message}")
