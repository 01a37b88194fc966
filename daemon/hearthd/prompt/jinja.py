"""A checkpoint's own chat template: Jinja, sandboxed, in bounded steps and output.

The environment is the one that published templates are written for:
https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from hearthd.errors import BadRequest

MAX_STEPS = 200_000  # loop turns of one rendering
MAX_CHARS = 8 << 20  # of a rendering, or of any value on the way to it
KEPT_TEMPLATES = 8
_MAX_EXPONENT = 64
_MAX_INDENT = 16
_UNBOUNDED_FILTERS = ("center", "format", "wordwrap")  # a number in the template sets the size of their result


class TooMuch(TemplateError):
    """A template that does more than any conversation needs."""


class _Bounds(NodeTransformer):
    """Every loop turn takes a step, and every concatenation is measured."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("join"), node.nodes, [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks text for training; a prompt keeps what is inside."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 reads a plain set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Counts steps over one rendering; each thread has its own, so that renderings do not overlap."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.steps_left = MAX_STEPS
        self.compiled: OrderedDict[str, Template] = OrderedDict()  # the template used last comes last
        self.filters["tojson"] = _tojson
        for name in _UNBOUNDED_FILTERS:
            del self.filters[name]
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = time.strftime

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        return tree

    def step(self) -> str:
        """One loop turn."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise TooMuch(f"the template takes more than {MAX_STEPS} steps")
        return ""

    def join(self, *values: Any) -> str:
        """`~`, measured."""
        texts = [str(value) for value in values]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An arithmetic operator, refused where its result could be huge."""
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call from the template; a number that could be a width is refused where it is huge."""
        for value in args:
            if isinstance(value, int) and abs(value) > MAX_CHARS:
                raise TooMuch(f"the template calls with the number {value}")
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, str):
            _check_size(len(result))
        return result


def _check_size(num_chars: int) -> None:
    if num_chars > MAX_CHARS:
        raise TooMuch(f"the template makes text of more than {MAX_CHARS} characters")


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        _check_size(len(left) + len(right))
    elif operator == "*":
        count, value = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(count, int) and hasattr(value, "__len__"):
            _check_size(len(value) * count)
    elif operator == "**" and isinstance(right, int) and right > _MAX_EXPONENT:
        raise TooMuch(f"the template raises to the power {right}")
    elif operator == "%" and isinstance(left, str):
        raise TooMuch("the template formats text with %")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers defines it: no escapes for HTML, characters as they are."""
    indent = indent and min(indent, _MAX_INDENT)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Local(threading.local):
    """What each thread has of its own."""

    environment: _Environment | None = None


_local = _Local()


def _environment() -> _Environment:
    if _local.environment is None:
        _local.environment = _Environment()
    return _local.environment


def _compile(source: str) -> Template:
    environment = _environment()
    template = environment.compiled.get(source)
    if template is None:
        template = environment.compiled[source] = environment.from_string(source)
    environment.compiled.move_to_end(source)
    if len(environment.compiled) > KEPT_TEMPLATES:
        environment.compiled.popitem(last=False)
    return template


def render(source: str, **variables: Any) -> str:
    """The template's text. BadRequest with the template's own words where it refuses, fails or does too much."""
    try:
        template = _compile(source)
        template.environment.steps_left = MAX_STEPS  # type: ignore[attr-defined]
        return _collect(template, variables)
    except TemplateError as error:
        raise BadRequest(f"chat template: {error}") from None
    except RecursionError:
        raise BadRequest("chat template: nested too deeply") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadRequest(f"chat template: {type(error).__name__}: {error}") from None


def _collect(template: Template, variables: dict[str, Any]) -> str:
    parts, num_chars = [], 0
    for part in template.generate(**variables):
        parts.append(part)
        num_chars += len(part)
        _check_size(num_chars)
    return "".join(parts)
