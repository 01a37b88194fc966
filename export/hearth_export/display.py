"""What a command tells: JSON lines for programs, bars and sentences on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from hearth_export.progress import Progress, Reporter, say

if TYPE_CHECKING:
    from hearth_export.plan import Planned  # brings ONNX Runtime along


class Display(Protocol):
    """Where a command's words go."""

    def progress(self) -> contextlib.AbstractContextManager[Progress]:
        """What is told how far the work is, for as long as the block runs."""

    def result(self, fields: Mapping[str, Any], sentence: str) -> None:
        """What was made."""

    def plan(self, plan: Planned) -> None:
        """What would be made."""

    def error(self, sentence: str) -> None:
        """What went wrong."""


def open_display() -> Display:
    """Bars where standard output is a terminal, else lines."""
    return OnTerminal() if sys.stdout.isatty() else Lines()


class Lines:
    """A JSON object a line."""

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        yield Reporter()

    def result(self, fields: Mapping[str, Any], sentence: str) -> None:
        say({"result": dict(fields)})

    def plan(self, plan: Planned) -> None:
        say({"plan": msgspec.to_builtins(plan)})

    def error(self, sentence: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            say({"error": sentence})


class OnTerminal:
    """A bar a stage, and text."""

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description:12}", markup=False), BarColumn(), DownloadColumn())
        with Bars(*columns, TransferSpeedColumn(), TimeRemainingColumn(compact=True)) as bars:
            tasks: dict[str, Any] = {}

            def report(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total or None)
                bars.update(tasks[stage], completed=done, total=total or None)

            yield report

    def result(self, fields: Mapping[str, Any], sentence: str) -> None:
        sys.stdout.write(f"{_printable(sentence)}\n")

    def plan(self, plan: Planned) -> None:
        sys.stdout.write("".join(f"{_printable(line)}\n" for line in _plan_lines(plan)))

    def error(self, sentence: str) -> None:
        sys.stderr.write(f"error: {_printable(sentence)}\n")


def _plan_lines(plan: Planned) -> Iterator[str]:
    yield f"{plan.variant}: {plan.kind} of architecture {plan.architecture}, {plan.parameter_count:,} parameters"
    yield f"  source    {plan.format}, {plan.file_type}"
    yield f"  held as   {', '.join(f'{kind} {holder}' for kind, holder in plan.holders.items())}"
    for name, num_bytes in plan.files.items():
        yield f"  {name:20} {_mib(num_bytes):>10}"
    yield f"  {'on disk':20} {_mib(plan.num_bytes):>10}"
    yield f"  {'in memory, loaded':20} {_mib(plan.loaded_bytes):>10}"
    yield f"  {f'with {plan.num_ctx} tokens':20} {_mib(plan.total_bytes):>10}"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.1f} MiB"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
