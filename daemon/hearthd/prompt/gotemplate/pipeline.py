"""Pipelines to closures: operands, fields, variables, and calls of functions."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, TypeAlias

from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault, TemplateError
from hearthd.prompt.gotemplate.functions import FUNCTIONS, Function
from hearthd.prompt.gotemplate.nodes import (
    Bool,
    Chain,
    Command,
    Dot,
    Field,
    Identifier,
    Nil,
    Number,
    Operand,
    Pipe,
    String,
    Variable,
)
from hearthd.prompt.gotemplate.quoting import quote
from hearthd.prompt.gotemplate.values import List, Map, Record, Value, truth, type_name

Evaluation: TypeAlias = Callable[[Run, Value], Value]
Stage: TypeAlias = Callable[..., Value]  # (run, dot) or (run, dot, final): final is what the stage before gave

MAX_SHOWN = 200  # characters of a node in an error


class Place:
    """A template's text and name, for errors that say where."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name

    def error(self, node: object, message: str, pos: int | None = None) -> TemplateError:
        """What Go says of a node that cannot be run."""
        at = int(getattr(node, "pos", 0)) if pos is None else pos
        before = self._text[:at]
        line, column = before.count("\n") + 1, len(before[before.rfind("\n") + 1 :].encode("utf-8", "replace"))
        shown = str(node)
        shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
        where = f"template: :{line}:{column}: executing {quote(self._name)} at <{shown}>"
        return TemplateError(f"{where}: {message}")


class Scope:
    """The variables that are seen at a place, each with its index among the template's variables."""

    def __init__(self) -> None:
        self._names = ["$"]
        self.most = 1  # of them at once

    def mark(self) -> int:
        return len(self._names)

    def forget(self, mark: int) -> None:
        del self._names[mark:]

    def declare(self, name: str) -> int:
        self._names.append(name)
        self.most = max(self.most, len(self._names))
        return len(self._names) - 1

    def find(self, name: str) -> int | None:
        """The index of the variable declared last."""
        for at in range(len(self._names) - 1, -1, -1):
            if self._names[at] == name:
                return at
        return None


class Pipeline:
    """Compiles the pipelines of one template."""

    def __init__(self, place: Place, scope: Scope, functions: Set[str], *, lenient: bool = False) -> None:
        """`lenient`: a field of a missing entry is missing too; else it is a mistake."""
        self._lenient = lenient
        self._place = place
        self._scope = scope
        self._functions = functions
        self._depth = 0
        self.deepest = 0

    def compile(self, pipe: Pipe) -> Evaluation:
        """What the pipeline gives, after its variables are set."""
        self._depth += 2
        self.deepest = max(self.deepest, self._depth)
        stages = [self._command(command, at > 0) for at, command in enumerate(pipe.commands)]
        self._depth -= 2
        evaluate = stages[0] if len(stages) == 1 else _piped(stages)
        if not pipe.declared:
            return evaluate
        slots = self._slots(pipe)

        def assign(run: Run, dot: Value) -> Value:
            value = evaluate(run, dot)
            for slot in slots:
                run.variables[slot] = value
            return value

        return assign if all(slot is not None for slot in slots) else self._undefined(pipe, evaluate)

    def _slots(self, pipe: Pipe) -> list[Any]:
        names = [variable.names[0] for variable in pipe.declared]
        return [self._scope.find(name) if pipe.assigns else self._scope.declare(name) for name in names]

    def _undefined(self, pipe: Pipe, evaluate: Evaluation) -> Evaluation:
        place, names = self._place, [variable.names[0] for variable in pipe.declared]
        missing = next(name for name in names if self._scope.find(name) is None)

        def fail(run: Run, dot: Value) -> Value:
            evaluate(run, dot)
            raise place.error(pipe, f"undefined variable: {missing}")

        return fail

    def loop_setters(self, pipe: Pipe) -> list[tuple[int, bool]]:
        """The variables that each turn of a loop sets: the index, and whether it takes the key."""
        names = [variable.names[0] for variable in pipe.declared]
        found = [(self._scope.find(name), len(names) > 1 and at == 0) for at, name in enumerate(names)]
        if len(names) > 1 and names[0] == names[1] and not pipe.assigns and found[0][0] is not None:
            found[0] = (found[0][0] - 1, True)
        return [(at, is_key) for at, is_key in found if at is not None]

    # commands

    def _command(self, command: Command, takes_final: bool) -> Stage:
        first = command.args[0]
        has_arguments = takes_final or len(command.args) > 1
        if isinstance(first, Identifier):
            return self._function(first.name, command, command.args[1:], takes_final)
        if isinstance(first, Field):
            return self._fields(_dot, first.names, first, has_arguments)
        if isinstance(first, Variable) and len(first.names) > 1:
            return self._fields(self._variable(first), first.names[1:], first, has_arguments)
        if isinstance(first, Chain):
            return self._chain(first, has_arguments)
        if has_arguments:
            return self._failing(first, f"can't give argument to non-function {first}")
        if isinstance(first, Nil):
            return self._failing(first, "nil is not a command")
        return self._operand(first)

    def _operand(self, node: Operand) -> Evaluation:
        if isinstance(node, Bool | String):
            return _constant(node.value)
        if isinstance(node, Field):
            return self._fields(_dot, node.names, node, False)
        if isinstance(node, Variable):
            value = self._variable(node)
            return self._fields(value, node.names[1:], node, False) if len(node.names) > 1 else value
        if isinstance(node, Pipe):
            return self.compile(node)
        if isinstance(node, Chain):
            return self._chain(node, False)
        if isinstance(node, Identifier):
            return self._function(node.name, node, [], False)
        if isinstance(node, Number):
            overflow = node.value is None
            return self._failing(node, f"{node} overflows int") if overflow else _constant(node.value)
        return _dot if isinstance(node, Dot) else _constant(None)

    def _failing(self, node: object, message: str) -> Stage:
        place = self._place

        def fail(run: Run, dot: Value, *final: Value) -> Value:
            raise place.error(node, message)

        return fail

    def _variable(self, node: Variable) -> Evaluation:
        name = node.names[0]
        slot = self._scope.find(name)
        if slot is None:
            return self._failing(node, f"undefined variable: {name}")
        at = slot
        return lambda run, dot: run.variables[at]

    # fields

    def _chain(self, node: Chain, has_arguments: bool) -> Evaluation:
        if isinstance(node.node, Nil):
            return self._failing(node, f"indirection through explicit nil in {node}")
        return self._fields(self._operand(node.node), node.names, node, has_arguments)

    def _fields(self, receiver: Evaluation, names: tuple[str, ...], node: Operand, has_arguments: bool) -> Stage:
        if len(names) == 1 and not has_arguments:
            return self._field(receiver, names[0], node)
        place, lenient = self._place, self._lenient

        def evaluate(run: Run, dot: Value, *final: Value) -> Value:
            value = receiver(run, dot)
            declared = type_name(value)
            if value is None:
                return None
            for name in names:
                if value is None:
                    if lenient:
                        return None
                    raise place.error(node, f"nil pointer evaluating {declared}.{name}")
                try:
                    found = get(run, value, name, declared)
                except Fault as fault:
                    raise place.error(node, str(fault)) from None
                declared = value.type.element if isinstance(value, Map) else type_name(found)
                holder, value = value, found
            if has_arguments:
                kind = "is not a method but has arguments" if isinstance(holder, Map) else (
                    "has arguments but cannot be invoked as function")  # fmt: skip
                raise place.error(node, f"{name} {kind}")
            return value

        return evaluate

    def _field(self, receiver: Evaluation, name: str, node: Operand) -> Evaluation:
        """The same for one field, which is what most templates ask for."""
        place, is_dot = self._place, receiver is _dot

        def evaluate(run: Run, dot: Value) -> Value:
            value = dot if is_dot else receiver(run, dot)
            if type(value) is Record and name in value.fields:
                return value.fields[name]
            if value is None:
                return None
            try:
                return get(run, value, name, type_name(value))
            except Fault as fault:
                raise place.error(node, str(fault)) from None

        return evaluate

    # functions

    def _function(self, name: str, node: object, args: list[Operand], takes_final: bool) -> Stage:
        first = node.args[0] if isinstance(node, Command) else node
        if name not in self._functions:
            return self._failing(first, f"{quote(name)} is not a defined function")
        function = FUNCTIONS[name]
        if wrong := _wrong_number(name, function, len(args), takes_final):
            return self._failing(first, wrong)
        values = [self._argument(function, at, arg) for at, arg in enumerate(args)]
        if name in ("and", "or"):
            return _deciding(values, name == "or")
        if takes_final:
            values.append(_final)
        if name == "eq" and len(values) == 2 and not takes_final:
            return self._equality(function, node, values[0], values[1])
        return self._call(name, function, node, values)

    def _equality(self, function: Function, node: object, left: Evaluation, right: Evaluation) -> Stage:
        """eq of two values, which for two short texts needs no call."""
        general = self._call("eq", function, node, [left, right])

        def evaluate(run: Run, dot: Value) -> Value:
            one, other = left(run, dot), right(run, dot)
            if type(one) is str and type(other) is str and len(other) < 256:
                return one == other
            return general(run, dot)

        return evaluate

    def _call(self, name: str, function: Function, node: object, values: list[Evaluation]) -> Stage:
        place, call, num_texts = self._place, function.call, function.texts

        def evaluate(run: Run, dot: Value, *final: Value) -> Value:
            arguments = [final[0] if value is _final else value(run, dot) for value in values]
            try:
                if num_texts:
                    _check_texts(arguments if num_texts < 0 else arguments[:num_texts])
                return call(run, arguments)
            except _WrongType as wrong:
                raise place.error(node, str(wrong)) from None
            except Fault as fault:
                raise place.error(node, f"error calling {name}: {fault}") from None

        return evaluate

    def _argument(self, function: Function, at: int, arg: Operand) -> Evaluation:
        is_text = function.texts < 0 or at < function.texts
        if is_text and isinstance(arg, Bool | Number):
            return self._failing(arg, f"expected string; found {arg}")
        if is_text and isinstance(arg, Nil):
            return self._failing(arg, "cannot assign nil to string")
        return self._operand(arg)


class _WrongType(Fault):
    """An argument that the function does not take."""


def _check_texts(values: list[Value]) -> None:
    for value in values:
        if value is None:
            raise _WrongType("invalid value; expected string")
        if not isinstance(value, str):
            raise _WrongType(f"wrong type for value; expected string; got {type_name(value)}")


def _wrong_number(name: str, function: Function, num_args: int, takes_final: bool) -> str:
    given = num_args + takes_final
    if function.most is None and given < function.least:
        return f"wrong number of args for {name}: want at least {function.least} got {num_args}"
    if function.most is not None and given != function.most:
        return f"wrong number of args for {name}: want {function.most} got {given}"
    return ""


def get(run: Run, value: Value, name: str, declared: str) -> Value:
    """A field of a struct, what a method gives, or an entry of a map (nil where there is none).

    Fault where the value has no such thing. `declared`: the type that errors name.
    """
    if isinstance(value, Record) and name in value.fields:
        return value.fields[name]
    if isinstance(value, Record | List | Map) and name in value.type.methods:
        return value.type.methods[name](run, value)
    if isinstance(value, Map):
        return value.entries.get(name)
    raise Fault(f"can't evaluate field {name} in type {declared}")


def _dot(run: Run, dot: Value) -> Value:
    return dot


def _final(run: Run, dot: Value) -> Value:
    """Stands for the value of the stage before."""
    raise AssertionError


def _constant(value: Value) -> Evaluation:
    return lambda run, dot: value


def _piped(stages: list[Stage]) -> Evaluation:
    first, *rest = stages

    def evaluate(run: Run, dot: Value) -> Value:
        value = first(run, dot)
        for stage in rest:
            value = stage(run, dot, value)
        return value

    return evaluate


def _deciding(values: list[Evaluation], wanted: bool) -> Stage:
    """and, or: the first value that decides, or else the last."""

    def evaluate(run: Run, dot: Value, *final: Value) -> Value:
        result: Value = None
        for value in values:
            result = value(run, dot)
            if truth(result) == wanted:
                return result
        return final[0] if final else result

    return evaluate
