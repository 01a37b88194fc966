from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture
def process() -> Iterator[Sender]:
    """A transfer process for one test."""
    with sender(settings()) as running:
        yield running


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where blobs go."""
    made = tmp_path / "blobs"
    made.mkdir()
    return made
