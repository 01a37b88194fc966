"""What a template is made of: blocks of nodes, pipelines of commands, operands. `str()` writes it out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(slots=True)
class Dot:
    pos: int

    def __str__(self) -> str:
        return "."


@dataclass(slots=True)
class Nil:
    pos: int

    def __str__(self) -> str:
        return "nil"


@dataclass(slots=True)
class Bool:
    pos: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(slots=True)
class Number:
    """`value` is None where the constant fits no int."""

    pos: int
    literal: str
    value: int | float | None

    def __str__(self) -> str:
        return self.literal


@dataclass(slots=True)
class String:
    pos: int
    literal: str
    value: str

    def __str__(self) -> str:
        return self.literal


@dataclass(slots=True)
class Field:
    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class Variable:
    """`names[0]` is the variable's name with its `$`, the rest are fields of it."""

    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.names)


@dataclass(slots=True)
class Identifier:
    pos: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class Chain:
    """Fields of what an operand in parentheses, or a function's name, gives."""

    pos: int
    node: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return inner + "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class Command:
    pos: int
    args: list[Operand]

    def __str__(self) -> str:
        return " ".join(f"({arg})" if isinstance(arg, Pipe) else str(arg) for arg in self.args)


@dataclass(slots=True)
class Pipe:
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


@dataclass(slots=True)
class Text:
    pos: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Action:
    pos: int
    pipe: Pipe

    def __str__(self) -> str:
        return f"{{{{{self.pipe}}}}}"


@dataclass(slots=True)
class Block:
    pos: int
    nodes: list[Node]

    @property
    def is_empty(self) -> bool:
        """Whether only blanks are in it: another definition of the same name may take its place."""
        return all(isinstance(node, Text) and not node.text.strip() for node in self.nodes)

    def __str__(self) -> str:
        return "".join(str(node) for node in self.nodes)


@dataclass(slots=True)
class Branch:
    """`kind` is if, with or range."""

    pos: int
    kind: str
    pipe: Pipe
    body: Block
    otherwise: Block | None

    def __str__(self) -> str:
        tail = f"{{{{else}}}}{self.otherwise}" if self.otherwise else ""
        return f"{{{{{self.kind} {self.pipe}}}}}{self.body}{tail}{{{{end}}}}"


@dataclass(slots=True)
class Call:
    """Of a template by its name."""

    pos: int
    name: str
    pipe: Pipe | None

    def __str__(self) -> str:
        return f'{{{{template "{self.name}"{f" {self.pipe}" if self.pipe else ""}}}}}'


@dataclass(slots=True)
class Leap:
    """`kind` is break or continue."""

    pos: int
    kind: str

    def __str__(self) -> str:
        return f"{{{{{self.kind}}}}}"


@dataclass(slots=True)
class Mark:
    """`kind` is end or else: what closes a block, and is never in one."""

    pos: int
    kind: str

    def __str__(self) -> str:
        return f"{{{{{self.kind}}}}}"


Node: TypeAlias = Text | Action | Branch | Call | Leap
