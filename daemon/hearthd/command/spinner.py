"""A sign of life while nothing is to be seen yet."""

from __future__ import annotations

import sys
import threading

from hearthd.command.terminal import is_terminal

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
_DELAY_S = 0.2  # what comes sooner needs no sign of life


class Spinner:
    """Turns on standard error from the start of the block until `stop`; where that is no terminal, nothing happens."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Spinner:
        if is_terminal(sys.stderr):
            self._thread = threading.Thread(target=self._turn, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Wipe it; nothing the second time."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopped.set()
            thread.join()
            sys.stderr.write("\r\x1b[K\x1b[?25h")
            sys.stderr.flush()

    def _turn(self) -> None:
        at = 0
        if self._stopped.wait(_DELAY_S):
            return
        while True:
            sys.stderr.write(f"\r\x1b[?25l{_FRAMES[at % len(_FRAMES)]}")
            sys.stderr.flush()
            at += 1
            if self._stopped.wait(_FRAME_S):
                return
