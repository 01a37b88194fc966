"""Calls written as Python: `[f(city="Oslo"), g(n=3)]`. Parsed, never run."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Collection
from typing import Any

from hearthd.prompt.conversation import ToolCall
from hearthd.prompt.toolcalls.scan import NotACall, sendable

MAX_SOURCE_CHARS = 1 << 16
WORDS = {"true": True, "false": False, "null": None}


def calls_in_python(source: str, names: Collection[str]) -> list[ToolCall]:
    """The calls of an expression: one, or a list of them. Raises NotACall where it is anything else."""
    tree = _parsed(source)
    nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
    return [_call(node, names) for node in nodes]


def _parsed(source: str) -> ast.expr:
    if len(source) > MAX_SOURCE_CHARS:
        raise NotACall
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python has opinions on the model's escapes
            return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotACall from error


def _call(node: ast.expr, names: Collection[str]) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise NotACall
    name = _dotted(node.func)
    name = name if name in names else name.removesuffix(".call")
    if name not in names:
        raise NotACall
    return ToolCall(name=name, arguments=sendable({_key(word.arg): _value(word.value) for word in node.keywords}))


def _dotted(node: ast.expr) -> str:
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise NotACall
    return ".".join([node.id, *reversed(words)])


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise NotACall
    return name


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value) if value not in (math.inf, -math.inf):
            return value
        case ast.Name(id=word) if word in WORDS:
            return WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(_value(key) if key else None): _value(item) for key, item in zip(keys, values, strict=True)}
    raise NotACall
