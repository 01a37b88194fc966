from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hearthd.transfer.fetching import settings
from tests.registries.misbehaving import MisbehavingRegistry, misbehaving
from tests.registries.sender import Sender, sender


@pytest.fixture
def registry() -> Iterator[MisbehavingRegistry]:
    """A registry for one test."""
    with misbehaving() as running:
        yield running


class Processes:
    """The processes of a module's tests, one at a time."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._last: Sender | None = None

    @property
    def serving(self) -> Sender:
        """The one that serves; after a test ended it, a new one."""
        if self._last is None or self._last.process.poll() is not None:
            self._last = self._stack.enter_context(sender(settings()))
        return self._last


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """For `process`."""
    with ExitStack() as stack:
        yield Processes(stack)


@pytest.fixture
def process(processes: Processes) -> Sender:
    """A transfer process without a key, shared by tests; they may end it."""
    return processes.serving


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where blobs go."""
    made = tmp_path / "blobs"
    made.mkdir()
    return made
