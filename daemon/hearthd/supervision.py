"""What the service manager hears while the daemon runs: that it is well, and what it does.

Nothing here wakes an idle daemon but the watchdog's own beat.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from hearthd.notify import Manager
from hearthd.threads import in_thread

log = logging.getLogger(__name__)

SETTLE_S = 0.25  # in which changes are gathered into one STATUS
BEAT_S = 20.0  # of a start that takes long
EXTENSION_S = 60.0  # that each beat asks for
FILES_S = 900.0  # without an answer of the threads for files: hashing what is large takes minutes of all of them
ASK_S = 300.0  # between two questions to them: each wakes them up


class Health:
    """Whether the parts that answer requests still do. Each of `parts` says what is wrong with it, or ""."""

    def __init__(self, *parts: Callable[[], str], files_s: float = FILES_S, ask_s: float = ASK_S) -> None:
        self._parts = parts
        self._files_s = files_s
        self._ask_s = ask_s
        self._asked_s = 0.0
        self._answer: asyncio.Future[None] | None = None

    def complaint(self) -> str:
        """What is wrong, or ""."""
        return next((text for part in (*self._parts, self._files) if (text := part())), "")

    def _files(self) -> str:
        """Asks the threads for files for a sign of life now and then, to be seen by a later call."""
        passed_s = time.monotonic() - self._asked_s
        if self._answer is None or (self._answer.done() and passed_s >= self._ask_s):
            self._asked_s, self._answer = time.monotonic(), asyncio.ensure_future(in_thread(_nothing))
            return ""
        if self._answer.done() or passed_s < self._files_s:
            return ""
        return f"the threads for files have not answered for {passed_s:.0f} s"


def _nothing() -> None:
    return


async def feed(manager: Manager, health: Health) -> None:
    """For ever, where the manager wants to hear. A daemon that is ill is not reported well, and so is started again."""
    while manager.watchdog_s:
        if complaint := health.complaint():
            log.error("the watchdog is not fed: %s", complaint)
        else:
            manager.feed()
        await asyncio.sleep(manager.watchdog_s)


class StatusLine:
    """Tells the manager what the daemon does, soon after it changed."""

    def __init__(self, manager: Manager, describe: Callable[[], str]) -> None:
        self._manager = manager
        self._describe = describe
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def changed(self) -> None:
        """It may have."""
        if self._manager.listens and self._timer is None and not self._ended:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._tell)

    def end(self) -> None:
        """Says nothing any more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self) -> None:
        self._timer = None
        self._manager.status(self._describe())


async def awaited(manager: Manager, describe: Callable[[], str], done: asyncio.Event) -> None:
    """Returns when `done` is set; until then the manager is asked for more time."""
    while not done.is_set():
        manager.extend(EXTENSION_S, describe())
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), BEAT_S)
