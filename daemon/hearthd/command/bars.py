"""Progress bars on a terminal: a row a status, with a bar where it has a size, in the order in which they came."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.spinner import Spinner
from rich.text import Text

from hearthd.command.progress import title
from hearthd.command.replies import Step

_MARGIN = 3  # the terminal echoes ^C behind the last row: it must not wrap


class Bars:
    """A block of rows that is drawn anew some times a second, and stays when it is closed."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._rows: list[RenderableType] = []
        self._tasks: dict[str, tuple[Progress, TaskID]] = {}
        self._status = ""
        self._live = Live(Group(), console=self._console, refresh_per_second=8)

    def __enter__(self) -> Bars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._draw()
        self._live.stop()

    def show(self, step: Step) -> None:
        """Move the step's bar, or add its row."""
        if step.total > 0:
            self._move(step)
        elif step.status != self._status:
            self._status = step.status
            self._add(Spinner("dots", Text(title(step))))

    def _move(self, step: Step) -> None:
        key = title(step)
        if key not in self._tasks:
            progress = self._last_bars()
            self._tasks[key] = progress, progress.add_task(key, total=step.total, completed=step.completed)
        progress, task = self._tasks[key]
        progress.update(task, total=step.total, completed=min(step.completed, step.total))

    def _last_bars(self) -> Progress:
        """The bars at the end of the block: those below one another share their columns."""
        if not self._rows or not isinstance(self._rows[-1], Progress):
            self._add(_bars(self._console))
        last = self._rows[-1]
        assert isinstance(last, Progress)
        return last

    def _add(self, row: RenderableType) -> None:
        self._settle()
        self._rows.append(row)
        self._draw()

    def _draw(self) -> None:
        self._live.update(Group(*(Padding(row, (0, _MARGIN, 0, 0)) for row in self._rows)))

    def _settle(self) -> None:
        """The last status is over: it turns no more."""
        if self._rows and isinstance(self._rows[-1], Spinner):
            self._rows[-1] = self._rows[-1].text


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )
