"""Blocks to functions: each node becomes a closure that writes to a run, so that a long loop costs little.

A block's closure charges the run for all its nodes at once; whoever loops or calls passes through one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import TypeAlias

from hearthd.prompt.gotemplate.budget import MAX_TURNS, Run
from hearthd.prompt.gotemplate.errors import Fault
from hearthd.prompt.gotemplate.nodes import Action, Block, Branch, Call, Identifier, Leap, Node, Pipe, Text
from hearthd.prompt.gotemplate.pipeline import Evaluation, Pipeline, Place, Scope
from hearthd.prompt.gotemplate.printing import NO_VALUE, show
from hearthd.prompt.gotemplate.quoting import quote
from hearthd.prompt.gotemplate.values import Image, List, Map, Value, truth, type_name

BREAK, CONTINUE = "break", "continue"

# what a node does; "break" and "continue" leave the blocks up to the loop
Act: TypeAlias = Callable[[Run, Value], str | None]


class Program:
    """The templates of one text, made into closures when they are first called."""

    def __init__(self, text: str, definitions: dict[str, Block], functions: Set[str], *, lenient: bool = False) -> None:
        self.lenient = lenient
        self.text = text
        self.functions = functions
        self._definitions = definitions
        self._compiled: dict[str, _Body] = {}

    def run(self, run: Run, data: Value) -> None:
        """Execute the template itself."""
        self._body("").run(run, data)

    def has(self, name: str) -> bool:
        return name in self._definitions

    def call(self, name: str, run: Run, data: Value) -> None:
        """Execute a named template."""
        self._body(name).run(run, data)

    def _body(self, name: str) -> _Body:
        body = self._compiled.get(name)
        if body is None:
            body = self._compiled[name] = _Body(self, name, self._definitions[name])
        return body


class _Body:
    """One template's closure, the room that its variables need, and how deep it nests."""

    def __init__(self, program: Program, name: str, block: Block) -> None:
        compiler = _Compiler(program, name)
        self._act = compiler.block(block)
        self._num_variables = compiler.scope.most
        self._depth = compiler.deepest + 1

    def run(self, run: Run, data: Value) -> None:
        outer, run.variables = run.variables, [None] * self._num_variables
        run.variables[0] = data
        run.depth -= self._depth
        if run.depth < 0:
            raise Fault("templates call each other too deep")
        self._act(run, data)
        run.depth += self._depth
        run.variables = outer


class _Compiler:
    def __init__(self, program: Program, name: str) -> None:
        self._program = program
        self._place = Place(program.text, name)
        self.scope = Scope()
        self._pipeline = Pipeline(self._place, self.scope, program.functions, lenient=program.lenient)
        self._depth = 0
        self.deepest = 0

    def block(self, block: Block) -> Act:
        self._depth += 1
        weight = 2 + sum(1 if isinstance(node, Text | Leap) else 2 + _weight(node.pipe) for node in block.nodes)
        visible = self.scope.mark()
        acts = [self._node(node) for node in block.nodes]
        self.scope.forget(visible)
        self.deepest = max(self.deepest, self._depth + self._pipeline.deepest)
        self._depth -= 1

        def act(run: Run, dot: Value) -> str | None:
            run.steps -= weight
            if run.steps < 0 or run.chars < 0:
                run.check()
            for step in acts:
                leap = step(run, dot)
                if leap is not None:
                    return leap
            return None

        return act

    def _node(self, node: Node) -> Act:
        if isinstance(node, Text):
            return _write(node.text)
        if isinstance(node, Action):
            return self._action(node)
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, Leap):
            return _leap(node.kind)
        visible = self.scope.mark()
        act = self._range(node) if node.kind == "range" else self._branch(node)
        self.scope.forget(visible)
        return act

    def _action(self, node: Action) -> Act:
        evaluate = self._pipeline.compile(node.pipe)
        if node.pipe.declared:
            return _evaluate_only(evaluate)
        place, pipe = self._place, node.pipe

        def act(run: Run, dot: Value) -> None:
            value = evaluate(run, dot)
            if type(value) is str:
                run.chars -= len(value)
                run.out.append(value)
            elif value is None:
                run.out.append(NO_VALUE)
            else:
                try:
                    run.out.append(show(run, value))
                except Fault as fault:
                    raise place.error(node, str(fault), pos=pipe.pos) from None

        return act

    def _call(self, node: Call) -> Act:
        program, place, name = self._program, self._place, node.name
        evaluate = self._pipeline.compile(node.pipe) if node.pipe else None

        def act(run: Run, dot: Value) -> None:
            if not program.has(name):
                raise place.error(node, f"template {quote(name)} not defined")
            try:
                program.call(name, run, evaluate(run, dot) if evaluate else None)
            except Fault as fault:
                raise place.error(node, str(fault)) from None

        return act

    def _branch(self, node: Branch) -> Act:
        """if and with; a chain of else-ifs is one closure, so that it nests no deeper than one."""
        binds = node.kind == "with"
        arms: list[tuple[Evaluation, Act]] = []
        otherwise: Block | None = None
        while True:
            arms.append((self._pipeline.compile(node.pipe), self.block(node.body)))
            otherwise = node.otherwise
            following = otherwise.nodes[0] if otherwise and len(otherwise.nodes) == 1 else None
            if not isinstance(following, Branch) or following.kind != node.kind:
                break
            node = following
        last = self.block(otherwise) if otherwise else None

        def act(run: Run, dot: Value) -> str | None:
            for evaluate, body in arms:
                value = evaluate(run, dot)
                if value is True or (value is not False and truth(value)):
                    return body(run, value if binds else dot)
                run.steps -= 1
            return last(run, dot) if last else None

        return act

    def _range(self, node: Branch) -> Act:
        evaluate = self._pipeline.compile(node.pipe)
        setters = self._pipeline.loop_setters(node.pipe)
        body = self.block(node.body)
        otherwise = self.block(node.otherwise) if node.otherwise else None
        place, num_declared, last = self._place, len(node.pipe.declared), node.pipe.commands[-1].args[-1]

        def act(run: Run, dot: Value) -> str | None:
            value = evaluate(run, dot)
            try:
                turns = _turns(value, num_declared)
            except Fault as fault:
                raise place.error(last, str(fault)) from None
            if turns is None:
                return otherwise(run, dot) if otherwise else None
            for key, element in turns:
                for at, is_key in setters:
                    run.variables[at] = key if is_key else element
                if body(run, element) == BREAK:
                    break
            return None

        return act


def _weight(pipe: Pipe | None) -> int:
    """How much there is to evaluate."""
    if pipe is None:
        return 0
    args = (arg for command in pipe.commands for arg in command.args)
    return sum(_weight(arg) if isinstance(arg, Pipe) else 4 if isinstance(arg, Identifier) else 1 for arg in args)


def _write(text: str) -> Act:
    num_chars = len(text)

    def act(run: Run, dot: Value) -> None:
        run.chars -= num_chars
        run.out.append(text)

    return act


def _leap(kind: str) -> Act:
    return lambda run, dot: kind


def _evaluate_only(evaluate: Evaluation) -> Act:
    def act(run: Run, dot: Value) -> None:
        evaluate(run, dot)

    return act


def _turns(value: Value, num_declared: int) -> Iterable[tuple[Value, Value]] | None:
    """Keys and elements in the order of the loop; None where there are none."""
    if isinstance(value, Image):
        value = value.bytes()
    if isinstance(value, List):
        return enumerate(value.elements) if len(value) else None
    if isinstance(value, Map):
        return value.entries.items() or None
    if type(value) is int:
        return _counted(value, num_declared)
    if value is None:
        return None
    raise Fault(f"range can't iterate over {_shortened(value)}")


def _counted(count: int, num_declared: int) -> Iterable[tuple[Value, Value]] | None:
    if num_declared > 1:
        raise Fault(f"can't use {count} to iterate over more than one variable")
    if count > MAX_TURNS:
        raise Fault(f"range over {count} is more than the {MAX_TURNS} turns allowed")
    return ((None, at) for at in range(count)) if count > 0 else None


def _shortened(value: Value) -> str:
    return value[:40] if isinstance(value, str) else type_name(value)
