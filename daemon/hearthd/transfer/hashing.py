"""A digest that is ready when the last byte is: a thread reads a file behind the one who fills it."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable

BUFFER_BYTES = 512 << 10


class FrontHash:
    """SHA-256 of the first `total` bytes of `fd`, which must stay open until `stop` has returned.

    `on_end` is called by the thread when it ends.
    """

    def __init__(self, fd: int, total: int, on_end: Callable[[], object]) -> None:
        self._fd = fd
        self._total = total
        self._on_end = on_end
        self._front = 0
        self._stopped = False
        self._error: OSError | None = None
        self._hash = hashlib.sha256()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
        self._thread.start()

    def advance(self, front: int) -> None:
        """The first `front` bytes are there and stay as they are."""
        with self._moved:
            self._front = front
            self._moved.notify()

    def result(self) -> str:
        """The digest in hexadecimal, after `on_end`. Raises OSError where the file could not be read."""
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def stop(self) -> None:
        """Returns when the file is no longer read."""
        with self._moved:
            self._stopped = True
            self._moved.notify()
        self._thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(min(BUFFER_BYTES, self._total)))
        position = 0
        try:
            while position < self._total and (front := self._wait(position)):
                position += self._read(buffer[: front - position], position)
        except OSError as error:
            self._error = error
        finally:
            self._on_end()

    def _wait(self, position: int) -> int:
        """The front, once it is behind `position`; 0 where there is no more to come."""
        with self._moved:
            while self._front <= position and not self._stopped:
                self._moved.wait()
            return 0 if self._stopped else self._front

    def _read(self, buffer: memoryview, position: int) -> int:
        count = os.preadv(self._fd, [buffer], position)
        if not count:
            raise OSError(errno.EIO, f"the file ends at byte {position}")
        self._hash.update(buffer[:count])
        return count
