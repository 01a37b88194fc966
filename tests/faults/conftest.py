from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running


@pytest.fixture(scope="session")
def daemon(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that has the model `tiny`, with a context window that lets it write for long."""
    with running(tmp_path_factory.mktemp("daemon"), HEARTH_CONTEXT_LENGTH="4096") as daemon:
        daemon.create("tiny", tiny_gguf)
        yield daemon
