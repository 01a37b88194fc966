"""A parsed template: what it names, and its execution."""

from __future__ import annotations

from collections.abc import Iterator

from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault, TemplateError
from hearthd.prompt.gotemplate.evaluate import Program
from hearthd.prompt.gotemplate.functions import BUILTIN, FUNCTIONS
from hearthd.prompt.gotemplate.nodes import (
    Action,
    Block,
    Branch,
    Command,
    Field,
    Leap,
    Operand,
    Pipe,
    Text,
    Variable,
)
from hearthd.prompt.gotemplate.quoting import clean
from hearthd.prompt.gotemplate.values import Value


class Template:
    """`definitions` holds the template itself by the name "", and those that it defines."""

    def __init__(self, text: str, definitions: dict[str, Block]) -> None:
        """TemplateError where a template is called without a value: upstream refuses it."""
        self.text = text
        self.root = definitions[""]
        self.identifiers = frozenset(name.lower() for block in definitions.values() for name in _identifiers(block))
        self._definitions = definitions
        self._program: Program | None = None

    def with_response(self) -> Template:
        """The template with `{{ .Response }}` at its end, where it names neither messages nor the response."""
        if not self.identifiers.isdisjoint(("messages", "response")):
            return self
        end = len(self.text)
        field = Action(end, Pipe(end, [], False, [Command(end, [Field(end, ("Response",))])]))
        root = Block(self.root.pos, [*self.root.nodes, field])
        return Template(self.text, {**self._definitions, "": root})

    def cut(self) -> Template:
        """The template up to its first `{{ .Response }}`, with Go's own functions and no other templates."""
        root, _ = _up_to_response(self.root)
        template = Template.__new__(Template)
        template.text, template.root, template.identifiers = self.text, root, self.identifiers
        template._definitions = {"": root}
        template._program = Program(self.text, template._definitions, BUILTIN, lenient=True)
        return template

    def execute(self, data: Value, run: Run | None = None) -> str:
        """What the template writes for `data`. TemplateError says where it failed and why."""
        if self._program is None:
            self._program = Program(self.text, self._definitions, frozenset(FUNCTIONS))
        run = run or Run()
        run.out.clear()
        try:
            self._program.run(run, data)
            run.check()
        except Fault as fault:
            raise TemplateError(f"template: {fault}") from None
        except RecursionError:
            raise TemplateError("template: blocks and templates are nested too deep") from None
        return clean("".join(run.out))


def _identifiers(block: Block) -> Iterator[str]:
    """Field and variable names; those behind parentheses are not seen."""
    for node in block.nodes:
        if isinstance(node, Text | Leap):
            continue
        if node.pipe is None:
            raise TemplateError("undefined template specified")
        yield from _of_pipe(node.pipe)
        if isinstance(node, Branch):
            yield from _identifiers(node.body)
            if node.otherwise:
                yield from _identifiers(node.otherwise)


def _of_pipe(pipe: Pipe) -> Iterator[str]:
    for command in pipe.commands:
        for arg in command.args:
            if isinstance(arg, Pipe):
                yield from _of_pipe(arg)
            elif isinstance(arg, Field | Variable):
                yield from arg.names


def _up_to_response(block: Block) -> tuple[Block, bool]:
    """The nodes up to the first action with .Response, on every level; whether there is one."""
    kept = Block(block.pos, [])
    for node in block.nodes:
        found = False
        if isinstance(node, Branch):
            node, found = _up_to_response_in(node)
        elif isinstance(node, Action):
            pipe, found = _pipe_up_to_response(node.pipe)
            if pipe is None:
                return kept, True
            node = Action(node.pos, pipe)
        kept.nodes.append(node)
        if found:
            return kept, True
    return kept, False


def _up_to_response_in(branch: Branch) -> tuple[Branch, bool]:
    body, found = _up_to_response(branch.body)
    otherwise: Block | None = None
    if not found and branch.otherwise:
        otherwise, found = _up_to_response(branch.otherwise)
    return Branch(branch.pos, branch.kind, branch.pipe, body, otherwise), found


def _pipe_up_to_response(pipe: Pipe) -> tuple[Pipe | None, bool]:
    """None where a command follows the one with .Response: upstream drops the whole action then."""
    commands: list[Command] = []
    found = False
    for command in pipe.commands:
        if found:
            return None, True
        args: list[Operand] = []
        for arg in command.args:
            if isinstance(arg, Pipe):
                inner, found = _pipe_up_to_response(arg)
                args += [inner] if inner else []
            else:
                args.append(arg)
                found = isinstance(arg, Field) and "Response" in arg.names
            if found:
                break
        if not args:
            return None, True
        commands.append(Command(command.pos, args))
    return Pipe(pipe.pos, pipe.declared, pipe.assigns, commands), found
