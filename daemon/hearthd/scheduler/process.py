"""A runner's operating-system process: how it starts, what its load gets done, and how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hearthd.cage import Cell

COMMAND = (sys.executable, "-P", "-m", "hearthd.engine")
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # NumPy multiplies nothing there, and threads take 35 ms to start

READ_FIELDS = (b"rchar:", b"read_bytes:")
MINOR_FAULTS, MAJOR_FAULTS = 7, 9  # fields of /proc/PID/stat, counted behind the command's parenthesis


async def start_process(fd: int, command: Sequence[str], cell: Cell) -> asyncio.subprocess.Process:
    """The process that serves the socket `fd`. When cancelled, there is none. OSError where it cannot start."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *cell.wrap((*command, "--fd", str(fd))),
            pass_fds=[fd],
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if starting.exception() is None:
            starting.result().kill()
            await starting.result().wait()
        raise


def progress(pid: int, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Bytes read and pages touched so far. A process that stands still gives the same again; () where it is gone.

    Reading a file that is mapped shows in the page faults only: proc_pid_io(5), proc_pid_stat(5).
    """
    return (*_bytes_read(proc / str(pid) / "io"), *_page_faults(proc / str(pid) / "stat"))


def _bytes_read(path: Path) -> list[int]:
    with suppress(OSError, ValueError):
        lines = (line.split() for line in path.read_bytes().splitlines())
        return [int(value) for name, value in lines if name in READ_FIELDS]
    return []


def _page_faults(path: Path) -> list[int]:
    with suppress(OSError, ValueError, IndexError):
        # the command in parentheses may hold blanks and parentheses itself
        fields = path.read_bytes().rpartition(b")")[2].split()
        return [int(fields[MINOR_FAULTS]), int(fields[MAJOR_FAULTS])]
    return []


def exit_sentence(status: int | None, *, by_us: bool = False) -> str:
    """How a process with this return code (negative: signal) ended, for a client. `by_us`: the daemon killed it."""
    if by_us:
        return "it closed its connection and did not exit"
    if status is None:
        return "it no longer answers"
    if status == -signal.SIGKILL:
        return "killed by SIGKILL, most likely for lack of memory"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
