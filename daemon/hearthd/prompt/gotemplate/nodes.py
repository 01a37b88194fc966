"""What a template is made of: blocks of nodes, pipelines of commands, operands. `str()` writes it out again."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Dot(msgspec.Struct):
    pos: int

    def __str__(self) -> str:
        return "."


class Nil(msgspec.Struct):
    pos: int

    def __str__(self) -> str:
        return "nil"


class Bool(msgspec.Struct):
    pos: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


class Number(msgspec.Struct):
    """`value` is None where the constant fits no int."""

    pos: int
    literal: str
    value: int | float | None

    def __str__(self) -> str:
        return self.literal


class String(msgspec.Struct):
    pos: int
    literal: str
    value: str

    def __str__(self) -> str:
        return self.literal


class Field(msgspec.Struct):
    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


class Variable(msgspec.Struct):
    """`names[0]` is the variable's name with its `$`, the rest are fields of it."""

    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.names)


class Identifier(msgspec.Struct):
    pos: int
    name: str

    def __str__(self) -> str:
        return self.name


class Chain(msgspec.Struct):
    """Fields of what an operand in parentheses, or a function's name, gives."""

    pos: int
    node: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return inner + "".join(f".{name}" for name in self.names)


class Command(msgspec.Struct):
    pos: int
    args: list[Operand]

    def __str__(self) -> str:
        return " ".join(f"({arg})" if isinstance(arg, Pipe) else str(arg) for arg in self.args)


class Pipe(msgspec.Struct):
    """`declared` are the variables that take its value; `assigns`: they exist already."""

    pos: int
    declared: list[Variable]
    assigns: bool
    commands: list[Command]

    def __str__(self) -> str:
        names = ", ".join(str(variable) for variable in self.declared)
        start = f"{names} {'=' if self.assigns else ':='} " if names else ""
        return start + " | ".join(str(command) for command in self.commands)


Operand: TypeAlias = Dot | Nil | Bool | Number | String | Field | Variable | Identifier | Chain | Pipe


class Text(msgspec.Struct):
    pos: int
    text: str

    def __str__(self) -> str:
        return self.text


class Action(msgspec.Struct):
    pos: int
    pipe: Pipe

    def __str__(self) -> str:
        return f"{{{{{self.pipe}}}}}"


class Block(msgspec.Struct):
    pos: int
    nodes: list[Node]

    @property
    def is_empty(self) -> bool:
        """Whether only blanks are in it: another definition of the same name may take its place."""
        return all(isinstance(node, Text) and not node.text.strip() for node in self.nodes)

    def __str__(self) -> str:
        return "".join(str(node) for node in self.nodes)


class Branch(msgspec.Struct):
    """`kind` is if, with or range."""

    pos: int
    kind: str
    pipe: Pipe
    body: Block
    otherwise: Block | None

    def __str__(self) -> str:
        tail = f"{{{{else}}}}{self.otherwise}" if self.otherwise else ""
        return f"{{{{{self.kind} {self.pipe}}}}}{self.body}{tail}{{{{end}}}}"


class Call(msgspec.Struct):
    """Of a template by its name."""

    pos: int
    name: str
    pipe: Pipe | None

    def __str__(self) -> str:
        return f'{{{{template "{self.name}"{f" {self.pipe}" if self.pipe else ""}}}}}'


class Leap(msgspec.Struct):
    """`kind` is break or continue."""

    pos: int
    kind: str

    def __str__(self) -> str:
        return f"{{{{{self.kind}}}}}"


class Mark(msgspec.Struct):
    """`kind` is end or else: what closes a block, and is never in one."""

    pos: int
    kind: str

    def __str__(self) -> str:
        return f"{{{{{self.kind}}}}}"


Node: TypeAlias = Text | Action | Branch | Call | Leap
