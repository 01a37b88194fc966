"""The process that moves bytes: `python -m hearthd.transfer <settings as JSON>`, started by the daemon.

One thread reads orders from standard input, one writes answers to standard output; the main thread's event
loop runs a task for each job. What is said to nobody goes to standard error.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import msgspec
import uvloop

from hearthd.log import configure_child
from hearthd.transfer import messages
from hearthd.transfer.answers import Answers
from hearthd.transfer.errors import TransferError
from hearthd.transfer.http import Http
from hearthd.transfer.messages import DROPPED, Drop, Failed, Finished, Job, Settings

log = logging.getLogger("hearthd.transfer")

USAGE = "usage: python -m hearthd.transfer SETTINGS_AS_JSON (started by the daemon)"
NICENESS = 10  # tokens go before bytes
NUM_THREADS = 8  # for files; each job has one more, which hashes
LEAVE_GRACE_S = 2.0  # for jobs to note what they have
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# malloc.h of glibc, which else gives every thread memory of its own, and the kernel every freed buffer back
MALLOPT = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 4 << 20), "M_TRIM_THRESHOLD": (-1, 16 << 20)}

JOBS: dict[type[Job], str] = {
    messages.FetchManifest: "hearthd.transfer.manifest:fetch_manifest",
    messages.FetchBlob: "hearthd.transfer.download:fetch_blob",
    messages.FetchFile: "hearthd.transfer.hubfile:fetch_file",
    messages.FetchListing: "hearthd.transfer.listing:fetch_listing",
    messages.SendBlob: "hearthd.transfer.upload:send_blob",
    messages.SendManifest: "hearthd.transfer.upload:send_manifest",
    messages.MakeKey: "hearthd.transfer.key:make_key",
}

Work = Callable[[Http, Settings, Job, Callable[[int, int], None]], Awaitable[bytes | None]]


class _Id(msgspec.Struct):
    id: int


class Jobs:
    """The tasks at work, by the ids of their jobs."""

    def __init__(self, http: Http, settings: Settings, answers: Answers) -> None:
        self._http = http
        self._settings = settings
        self._answers = answers
        self._tasks: dict[int, asyncio.Task[bytes | None]] = {}

    def take(self, line: bytes) -> None:
        """Starts or drops what the line says."""
        try:
            order = messages.decode_order(line)
        except msgspec.DecodeError as error:
            self._refuse(line, error)
            return
        if isinstance(order, Drop):
            if order.id in self._tasks:
                self._tasks[order.id].cancel()
        elif order.id in self._tasks:
            log.error("job %d is running already; the second one of that id is left out", order.id)
        else:
            task = self._tasks[order.id] = asyncio.create_task(self._work(order))
            task.add_done_callback(partial(self._end, order))

    async def leave(self) -> None:
        """Drops everything; returns when all have noted what they have, or after LEAVE_GRACE_S."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_GRACE_S)

    def _refuse(self, line: bytes, error: msgspec.DecodeError) -> None:
        log.error("an order cannot be read: %s", error)
        with suppress(msgspec.DecodeError):
            self._answers.put(Failed(msgspec.json.decode(line, type=_Id).id, f"the order cannot be read: {error}"))

    def _end(self, job: Job, task: asyncio.Task[bytes | None]) -> None:
        del self._tasks[job.id]
        self._answers.put(_end(job, task))

    async def _work(self, job: Job) -> bytes | None:
        module, _, name = JOBS[type(job)].partition(":")
        work: Work = getattr(import_module(module), name)
        return await work(self._http, self._settings, job, lambda done, total: self._answers.move(job.id, done, total))


def _end(job: Job, task: asyncio.Task[bytes | None]) -> Finished | Failed:
    """The answer to a job whose task is done."""
    if task.cancelled():
        return Failed(job.id, "dropped", DROPPED)
    error = task.exception()
    if error is None:
        return Finished(job.id, task.result() or b"")
    if isinstance(error, TransferError):
        return Failed(job.id, str(error), error.reason, error.status)
    log.error("job %d (%s) failed in a way that was not foreseen", job.id, type(job).__name__, exc_info=error)
    return Failed(job.id, f"the transfer failed: {type(error).__name__}: {error}"[:500])


def guard_process() -> None:
    """Ties this process to its parent's life, makes it polite, leaves Ctrl-C to the daemon."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(AttributeError):  # musl
        for option, value in MALLOPT.values():
            libc.mallopt(option, value)
    with suppress(OSError):
        os.nice(NICENESS)
    if os.getsid(0) == os.getpid():  # where sessions are scheduled as groups, only the group's counts: sched(7)
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS))


def read_lines(stream: BinaryIO, loop: asyncio.AbstractEventLoop, take: Callable[[bytes], None]) -> None:
    """Hands every line to `take` in the loop, b"" at the end, after which the process ends in any case."""
    while line := stream.readline(messages.MAX_LINE_BYTES):
        loop.call_soon_threadsafe(take, line)
    loop.call_soon_threadsafe(take, b"")
    time.sleep(LEAVE_GRACE_S * 2)
    os._exit(1)


async def serve(settings: Settings) -> None:
    """Works until standard input ends."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(NUM_THREADS, "files"))
    ended = asyncio.Event()
    async with Http(settings) as http:
        answers = Answers(sys.stdout.fileno())
        jobs = Jobs(http, settings, answers)

        def take(line: bytes) -> None:
            if line:
                jobs.take(line)
            else:
                ended.set()

        threading.Thread(target=read_lines, args=(sys.stdin.buffer, loop, take), daemon=True).start()
        await ended.wait()
        await jobs.leave()
        answers.close()


def main(arguments: list[str]) -> int:
    """Serves standard input; returns the exit status."""
    try:
        (text,) = arguments
        settings = msgspec.json.decode(text, type=Settings)
    except (ValueError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{USAGE}\n{error}\n")
        return 2
    configure_child(logging.INFO)
    guard_process()
    uvloop.run(serve(settings))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # at once: threads may wait for a disk or for the daemon
