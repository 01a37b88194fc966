"""Whether a runner that has work to do still lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hearthd.errors import RunnerDied

LONGEST_INTERVAL_S = 5.0
BEATS_PER_TIMEOUT = 4
STEP_TIMEOUTS = 5  # for one step: a slow board evaluates a long chunk of a prompt in one


class Heartbeat:
    """Asks with `ping` at every beat while it runs, and tells `died` when nothing is heard for `timeout_s`.

    Silence is counted in beats, not by the clock: a daemon that stood still itself heard nothing meanwhile.
    """

    def __init__(self, timeout_s: float, ping: Callable[[], None], died: Callable[[RunnerDied], None]) -> None:
        self._timeout_s = timeout_s
        self._interval_s = min(LONGEST_INTERVAL_S, timeout_s / BEATS_PER_TIMEOUT)
        self._ping = ping
        self._died = died
        self._num_unanswered = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on it beats; a short request ends before the first beat."""
        if self._timer is None:
            self._num_unanswered = 0
            self._next()

    def stop(self) -> None:
        """No beat and no timer until the next start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def heard(self, busy_ns: int = 0) -> None:
        """A sign of life; `busy_ns` is how long the runner's step has taken so far."""
        self._num_unanswered = 0
        longest_s = STEP_TIMEOUTS * self._timeout_s
        if self._timer is not None and busy_ns > longest_s * 1e9:
            self._end(f"the model runner did not finish one step within {longest_s:g} s and was ended")

    def _next(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._beat)

    def _beat(self) -> None:
        if self._num_unanswered * self._interval_s >= self._timeout_s:
            return self._end(
                f"the model runner no longer answered (no heartbeat for {self._timeout_s:g} s) and was ended"
            )
        self._num_unanswered += 1
        self._next()
        self._ping()

    def _end(self, sentence: str) -> None:
        self.stop()
        self._died(RunnerDied(sentence))
