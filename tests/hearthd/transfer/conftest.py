from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hearthd.transfer.fetching import Processes
from tests.registries.misbehaving import MisbehavingRegistry, misbehaving
from tests.registries.sender import Sender


@pytest.fixture
def registry() -> Iterator[MisbehavingRegistry]:
    """A registry for one test."""
    with misbehaving() as running:
        yield running


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
