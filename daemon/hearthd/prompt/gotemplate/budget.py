"""How much a template may do: a render ends in bounded time and memory, whatever the template says."""

from __future__ import annotations

from typing import Any

from hearthd.prompt.gotemplate.errors import Fault

MAX_STEPS = 1_000_000  # nodes that are run; 0.1 to 0.3 s on an x86-64 core
MAX_CHARS = 16 << 20  # of output and of what functions make
MAX_DEPTH = 300  # blocks, parentheses and called templates within each other
MAX_TURNS = 1_000_000  # turns of `range` over a number


class Run:
    """One execution: what is written, what may still be done, the variables of the template that runs."""

    __slots__ = ("chars", "depth", "out", "steps", "variables")

    def __init__(self, *, steps: int = MAX_STEPS, chars: int = MAX_CHARS) -> None:
        self.out: list[str] = []
        self.steps = steps
        self.chars = chars
        self.depth = MAX_DEPTH
        self.variables: list[Any] = []

    def check(self) -> None:
        """Fault where a bound is exceeded."""
        if self.steps < 0:
            raise Fault("the template does more work than a render may: too many loop turns or nested calls")
        if self.chars < 0:
            raise Fault("the template writes more text than a render may")

    def make(self, text: str) -> str:
        """`text`, which a function made; its length counts."""
        self.chars -= len(text)
        self.steps -= len(text) >> 6
        if self.chars < 0 or self.steps < 0:
            self.check()
        return text

    def look(self, num_chars: int) -> None:
        """Text of this length is read through."""
        self.steps -= num_chars >> 8
        if self.steps < 0:
            self.check()
