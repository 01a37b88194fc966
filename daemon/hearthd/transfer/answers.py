"""What the process tells the daemon, written by a thread of its own, so that a slow reader delays nobody."""

from __future__ import annotations

import threading

from hearthd.store.durable import write_all
from hearthd.transfer.messages import Failed, Finished, Moved, encode

MOVED_EVERY_S = 0.06
CLOSE_GRACE_S = 1.0


class Answers:
    """Lines to `fd`: of a job's Moved only the latest, at most one every MOVED_EVERY_S; ends at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._moved: dict[int, Moved] = {}
        self._ends: list[Finished | Failed] = []
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="answers", daemon=True)
        self._thread.start()

    def move(self, job: int, completed: int, total: int) -> None:
        """Tell how far a job is, in bytes."""
        with self._changed:
            self._moved[job] = Moved(job, completed, total)
            self._changed.notify()

    def put(self, end: Finished | Failed) -> None:
        """Tell a job's end."""
        with self._changed:
            self._ends.append(end)
            self._changed.notify()

    def close(self) -> None:
        """Returns when all is written, or when nobody reads it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_GRACE_S)

    def _write(self) -> None:
        try:
            while lines := self._next():
                write_all(self._fd, lines)
        except OSError:
            pass  # the daemon is gone; the end of standard input says so too

    def _next(self) -> bytes:
        """What to write next, waited for; b"" at the end. The last Moved of a job goes before its end."""
        with self._changed:
            while not self._moved and not self._ends and not self._closing:
                self._changed.wait()
            if not self._ends and not self._closing:
                self._changed.wait_for(lambda: self._ends or self._closing, MOVED_EVERY_S)
            lines = [encode(moved) for moved in self._moved.values()] + [encode(end) for end in self._ends]
            self._moved.clear()
            self._ends.clear()
            return b"".join(lines)
