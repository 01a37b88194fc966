"""Template text to templates, with the mistakes that https://pkg.go.dev/text/template finds, in its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from hearthd.prompt.gotemplate import lexer, numbers
from hearthd.prompt.gotemplate.errors import TemplateError
from hearthd.prompt.gotemplate.functions import FUNCTIONS
from hearthd.prompt.gotemplate.lexer import Token
from hearthd.prompt.gotemplate.nodes import (
    Action,
    Block,
    Bool,
    Branch,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Identifier,
    Leap,
    Mark,
    Nil,
    Node,
    Number,
    Operand,
    Pipe,
    String,
    Text,
    Variable,
)
from hearthd.prompt.gotemplate.quoting import quote, unquote
from hearthd.prompt.gotemplate.template import Template

MAX_CHARS = 1 << 20
MAX_NESTING = 100  # blocks and parentheses within each other
MAX_VARIABLES = 1000  # seen at one place

_OPERANDS = frozenset((
    lexer.BOOL, lexer.CHARACTER, lexer.COMPLEX, lexer.DOT, lexer.FIELD, lexer.IDENTIFIER, lexer.NUMBER, "nil",
    lexer.RAW_STRING, lexer.STRING, lexer.VARIABLE, lexer.OPEN,
))  # fmt: skip


def parse(text: str) -> Template:
    """The template that `text` is. TemplateError says what is wrong and in which line, as Go does."""
    if len(text) > MAX_CHARS:
        raise TemplateError(f"template: the text has {len(text)} characters, more than the {MAX_CHARS} allowed")
    definitions: dict[str, Block] = {}
    try:
        _Parser(_Tokens(text), definitions, "").parse_all()
    except RecursionError:
        raise TemplateError("template: blocks and parentheses are nested too deep") from None
    return Template(text, definitions)


class _Tokens:
    """The tokens that nested definitions read in turn."""

    def __init__(self, text: str) -> None:
        self._found = lexer.tokens(text)
        self._last = self._found[-1]._replace(kind=lexer.EOF)
        self.at = 0
        self.furthest = 0  # tokens that were looked at
        self.nesting = 0

    def get(self, at: int) -> Token:
        return self._found[at] if at < len(self._found) else self._last


class _Parser:
    """One definition: the template itself, or a named one within it."""

    def __init__(self, tokens: _Tokens, definitions: dict[str, Block], name: str) -> None:
        self._tokens = tokens
        self._definitions = definitions
        self._name = name
        self._variables = ["$"]
        self._line = 0  # of the last token read for this definition
        self._action_line = 0
        self._range_depth = 0

    # tokens

    def _next(self) -> Token:
        stream = self._tokens
        token = stream.get(stream.at)
        stream.at += 1
        if stream.at > stream.furthest:
            stream.furthest = stream.at
            self._line = token.line
        return token

    def _peek(self) -> Token:
        token = self._next()
        self._tokens.at -= 1
        return token

    def _next_solid(self) -> Token:
        """The next token that is no space."""
        while (token := self._next()).kind == lexer.SPACE:
            pass
        return token

    def _peek_solid(self) -> Token:
        token = self._next_solid()
        self._tokens.at -= 1
        return token

    def _expect(self, context: str, *kinds: str) -> Token:
        token = self._next_solid()
        if token.kind not in kinds:
            self._unexpected(token, context)
        return token

    # mistakes

    def _fail(self, message: str) -> NoReturn:
        raise TemplateError(f"template: :{self._line}: {message}")

    def _unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind != lexer.ERROR:
            self._fail(f"unexpected {token} in {context}")
        started = ""
        if self._action_line and self._action_line != token.line:
            started = f" in action started at :{self._action_line}"
            if token.text.endswith(" action"):
                started = started.removeprefix(" in action")
        self._fail(f"{token}{started}")

    def _deeper(self) -> None:
        self._tokens.nesting += 1
        if self._tokens.nesting > MAX_NESTING:
            self._fail(f"blocks and parentheses are nested more than {MAX_NESTING} deep")

    # blocks

    def parse_all(self) -> None:
        nodes: list[Node] = []
        root = Block(self._peek().pos, nodes)
        while self._peek().kind != lexer.EOF:
            if self._peek().kind == lexer.LEFT:
                at = self._tokens.at
                self._next()
                if self._next_solid().kind == "define":
                    self._definition()
                    continue
                self._tokens.at = at
            node = self._text_or_action()
            if isinstance(node, Mark):
                self._fail(f"unexpected {node}")
            nodes.append(node)
        self._add(root)

    def _definition(self) -> None:
        inner = _Parser(self._tokens, self._definitions, "definition")
        context = "define clause"
        token = inner._expect(context, lexer.STRING, lexer.RAW_STRING)
        inner._name = inner._unquoted(token)
        inner._expect(context, lexer.RIGHT)
        inner._body_of(context, inner)

    def _body_of(self, context: str, outer: _Parser) -> None:
        """Read a definition up to its end."""
        block, end = self._block()
        if end.kind != "end":
            outer._fail(f"unexpected {end} in {context}")
        self._add(block)

    def _add(self, block: Block) -> None:
        known = self._definitions.get(self._name)
        if known is None or known.is_empty:
            self._definitions[self._name] = block
        elif not block.is_empty:
            self._fail(f"template: multiple definition of template {quote(self._name)}")

    def _block(self) -> tuple[Block, Mark]:
        """Nodes up to an else or an end, and that mark."""
        block = Block(self._peek_solid().pos, [])
        self._deeper()
        while self._peek_solid().kind != lexer.EOF:
            node = self._text_or_action()
            if isinstance(node, Mark):
                self._tokens.nesting -= 1
                return block, node
            block.nodes.append(node)
        self._fail("unexpected EOF")

    def _text_or_action(self) -> Node | Mark:
        token = self._next_solid()
        if token.kind == lexer.TEXT:
            return Text(token.pos, token.text)
        if token.kind != lexer.LEFT:
            self._unexpected(token, "input")
        self._action_line = token.line
        node = self._action()
        self._action_line = 0
        return node

    def _action(self) -> Node | Mark:
        token = self._next_solid()
        kind = token.kind
        if kind in ("if", "with", "range"):
            return self._branch(kind)
        if control := self._controls.get(kind):
            return control(self, token)
        self._tokens.at -= 1
        return Action(token.pos, self._pipeline("command", lexer.RIGHT))

    def _branch(self, kind: str) -> Branch:
        visible = len(self._variables)
        pipe = self._pipeline(kind, lexer.RIGHT)
        self._range_depth += kind == "range"
        body, mark = self._block()
        self._range_depth -= kind == "range"
        otherwise = self._otherwise(kind, mark) if mark.kind == "else" else None
        del self._variables[visible:]
        return Branch(pipe.pos, kind, pipe, body, otherwise)

    def _otherwise(self, kind: str, mark: Mark) -> Block:
        if kind in ("if", "with") and self._peek().kind == kind:
            self._deeper()
            self._next()
            block = Block(mark.pos, [self._branch(kind)])
            self._tokens.nesting -= 1
            return block
        block, end = self._block()
        if end.kind != "end":
            self._fail(f"expected end; found {end}")
        return block

    def _else(self, token: Token) -> Mark:
        following = self._peek_solid()
        if following.kind in ("if", "with"):
            return Mark(following.pos, "else")
        return Mark(self._expect("else", lexer.RIGHT).pos, "else")

    def _end(self, token: Token) -> Mark:
        return Mark(self._expect("end", lexer.RIGHT).pos, "end")

    def _leap(self, token: Token) -> Leap:
        following = self._next_solid()
        if following.kind != lexer.RIGHT:
            self._unexpected(following, f"{{{{{token.kind}}}}}")
        if not self._range_depth:
            self._fail(f"{{{{{token.kind}}}}} outside {{{{range}}}}")
        return Leap(token.pos, token.kind)

    def _block_clause(self, token: Token) -> Call:
        """`block` defines a template and calls it."""
        name = self._next_solid()
        inner = _Parser(self._tokens, self._definitions, self._template_name(name, "block clause"))
        pipe = self._pipeline("block clause", lexer.RIGHT)
        inner._body_of("block clause", self)
        return Call(name.pos, inner._name, pipe)

    def _template_clause(self, token: Token) -> Call:
        context = "template clause"
        name = self._next_solid()
        text = self._template_name(name, context)
        if self._next_solid().kind == lexer.RIGHT:
            return Call(name.pos, text, None)
        self._tokens.at -= 1
        return Call(name.pos, text, self._pipeline(context, lexer.RIGHT))

    _controls: dict[str, Callable[[_Parser, Token], Node | Mark]] = {  # noqa: RUF012
        "block": _block_clause,
        "break": _leap,
        "continue": _leap,
        "else": _else,
        "end": _end,
        "template": _template_clause,
    }

    def _template_name(self, token: Token, context: str) -> str:
        if token.kind not in (lexer.STRING, lexer.RAW_STRING):
            self._unexpected(token, context)
        return self._unquoted(token)

    # pipelines

    def _pipeline(self, context: str, end: str) -> Pipe:
        pipe = Pipe(self._peek_solid().pos, [], False, [])
        self._declarations(pipe, context)
        while (token := self._next_solid()).kind != end:
            if token.kind not in _OPERANDS:
                self._unexpected(token, context)
            self._tokens.at -= 1
            pipe.commands.append(self._command())
        self._check(pipe, context)
        return pipe

    def _declarations(self, pipe: Pipe, context: str) -> None:
        """`$x :=`, `$x =` or `$i, $x :=`, where one is there."""
        while (variable := self._peek_solid()).kind == lexer.VARIABLE:
            at = self._tokens.at
            self._next()
            following = self._next_solid()
            is_comma = following.kind == lexer.CHAR and following.text == ","
            if not is_comma and following.kind not in (lexer.ASSIGN, lexer.DECLARE):
                self._tokens.at = at
                return
            pipe.assigns = following.kind == lexer.ASSIGN
            pipe.declared.append(Variable(variable.pos, (variable.text,)))
            self._variables.append(variable.text)
            if len(self._variables) > MAX_VARIABLES:
                self._fail(f"more than {MAX_VARIABLES} variables")
            if not is_comma:
                return
            if context != "range" or len(pipe.declared) > 1:
                self._fail(f"too many declarations in {context}")
            if self._peek_solid().kind not in (lexer.VARIABLE, lexer.RIGHT, lexer.CLOSE):
                self._fail("range can only initialize variables")

    def _check(self, pipe: Pipe, context: str) -> None:
        if not pipe.commands:
            self._fail(f"missing value for {context}")
        for stage, command in enumerate(pipe.commands[1:], 2):
            if isinstance(command.args[0], Bool | Dot | Nil | Number | String):
                self._fail(f"non executable command in pipeline stage {stage}")

    def _command(self) -> Command:
        command = Command(self._peek_solid().pos, [])
        while True:
            self._peek_solid()
            operand = self._operand()
            if operand is not None:
                command.args.append(operand)
            token = self._next()
            if token.kind == lexer.SPACE:
                continue
            if token.kind in (lexer.RIGHT, lexer.CLOSE):
                self._tokens.at -= 1
            elif token.kind != lexer.PIPE:
                self._unexpected(token, "operand")
            break
        if not command.args:
            self._fail("empty command")
        return command

    def _operand(self) -> Operand | None:
        node = self._term()
        if node is None or self._peek().kind != lexer.FIELD:
            return node
        pos = self._peek().pos
        names: list[str] = []
        while self._peek().kind == lexer.FIELD:
            names.append(self._next().text[1:])
        if isinstance(node, Field | Variable):
            return type(node)(pos, (*node.names, *names))
        if isinstance(node, Bool | String | Number | Nil | Dot):
            self._fail(f"unexpected . after term {quote(str(node))}")
        return Chain(pos, node, tuple(names))

    def _term(self) -> Operand | None:
        token = self._next_solid()
        match token.kind:
            case lexer.FIELD:
                return Field(token.pos, (token.text[1:],))
            case lexer.STRING | lexer.RAW_STRING:
                return String(token.pos, token.text, self._unquoted(token))
            case lexer.IDENTIFIER:
                if token.text not in FUNCTIONS:
                    self._fail(f"function {quote(token.text)} not defined")
                return Identifier(token.pos, token.text)
            case lexer.VARIABLE:
                if token.text not in self._variables:
                    self._fail(f"undefined variable {quote(token.text)}")
                return Variable(token.pos, (token.text,))
            case lexer.DOT:
                return Dot(token.pos)
            case "nil":
                return Nil(token.pos)
            case lexer.BOOL:
                return Bool(token.pos, token.text == "true")
            case lexer.NUMBER | lexer.CHARACTER | lexer.COMPLEX:
                return self._number(token)
            case lexer.OPEN:
                self._deeper()
                pipe = self._pipeline("parenthesized pipeline", lexer.CLOSE)
                self._tokens.nesting -= 1
                return pipe
        self._tokens.at -= 1
        return None

    def _number(self, token: Token) -> Number:
        read = numbers.character if token.kind == lexer.CHARACTER else numbers.number
        try:
            return Number(token.pos, token.text, read(token.text))
        except ValueError as error:
            self._fail(str(error))

    def _unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            self._fail(str(error))
