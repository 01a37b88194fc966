"""How far a transfer is: bars on a terminal, lines elsewhere. Both go to standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import IO, Protocol

from hearthd.command.amounts import size_text
from hearthd.command.replies import Step
from hearthd.command.terminal import is_terminal, line

LINE_PERCENT = 10


class Display(Protocol):
    """Where progress is shown."""

    def show(self, step: Step) -> None:
        """One more step; those of the same status are one row."""


@contextlib.contextmanager
def open_display() -> Iterator[Display]:
    """The display that suits standard error; it is at rest after the block."""
    if not is_terminal(sys.stderr):
        yield Lines(sys.stderr)
        return
    from hearthd.command.bars import Bars

    with Bars() as bars:
        yield bars


def title(step: Step) -> str:
    """What the step is about: its status, which names the digest where there is one."""
    return line(step.status or step.digest, 200)


class Lines:
    """A line a status, and one each tenth of what has a size. No control characters."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._status = ""
        self._rows: dict[str, _Row] = {}

    def show(self, step: Step) -> None:
        """Write the line, if there is news."""
        if step.total > 0:
            self._show_part(step)
        elif step.status != self._status:
            self._status = step.status
            self._write(title(step))

    def _show_part(self, step: Step) -> None:
        key = title(step)
        row = self._rows.setdefault(key, _Row(step.completed))
        if row.is_due(step):
            self._write(f"{key}: {row.text(step)}")

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class _Row:
    """What was written of one digest."""

    def __init__(self, completed: int) -> None:
        self._began_at = time.monotonic()
        self._began_with = completed
        self._next_percent = 0

    def is_due(self, step: Step) -> bool:
        """Whether the step has reached what is to be written next."""
        percent = _percent(step)
        if percent < self._next_percent:
            return False
        self._next_percent = percent // LINE_PERCENT * LINE_PERCENT + LINE_PERCENT
        return True

    def text(self, step: Step) -> str:
        """`40% (36 MB of 91 MB, 5.2 MB/s)`."""
        amounts = f"{size_text(step.completed)} of {size_text(step.total)}"
        gained, seconds = step.completed - self._began_with, time.monotonic() - self._began_at
        speed = f", {size_text(int(gained / seconds))}/s" if gained > 0 and seconds > 0 else ""
        return f"{_percent(step)}% ({amounts}{speed})"


def _percent(step: Step) -> int:
    return min(100, step.completed * 100 // step.total)
