"""Programs that take a runner's place: they speak frames over `--fd N`, or what they please."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hearthd.engine.frames import Load
from hearthd.scheduler.runner import ProcessRunner

PRELUDE = """
import os, signal, socket, sys, time
from contextlib import suppress
from pathlib import Path
from hearthd.engine.channel import Channel, Closed
from hearthd.engine.frames import *
connection = socket.socket(fileno=int(sys.argv[-1]))
channel = Channel(connection)
LOADED = Loaded("fake", "nothing", 64, 1 << 20, 0, 1)
def ready():
    load = channel.receive()
    channel.send(LOADED)
    return load
def forever():
    with suppress(Closed):
        while True:
            channel.receive()
"""


def fake(directory: Path, program: str) -> list[str]:
    """The command that runs `program`, which finds `channel`, `connection`, `ready()` and `forever()`."""
    path = directory / "fake.py"
    path.write_text(PRELUDE + textwrap.dedent(program))
    return [sys.executable, "-P", str(path)]


@asynccontextmanager
async def started(load: Load, **settings: Any) -> AsyncIterator[ProcessRunner]:
    """A runner, real or not, that is gone after the block."""
    runner = await ProcessRunner.start(load, **settings)
    try:
        yield runner
    finally:
        await runner.close()


def is_gone(pid: int) -> bool:
    """Whether there is no such process."""
    return not Path(f"/proc/{pid}").exists()


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
