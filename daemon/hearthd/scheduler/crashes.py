"""Models whose runners crash, and when each may be loaded again. Nothing here reads a clock."""

from __future__ import annotations

from dataclasses import dataclass

from hearthd.duration import MINUTE_NS, SECOND_NS

FIRST_PAUSE_NS = SECOND_NS  # after the second crash in a row; the first costs nothing
LONGEST_PAUSE_NS = MINUTE_NS
LONGEST_PAUSE_OF_USE_NS = 2 * SECOND_NS  # where the runner had answered somebody before it crashed
FORGOTTEN_AFTER_NS = MINUTE_NS  # without a crash, counted from when it might be loaded again


@dataclass(frozen=True, slots=True)
class Crash:
    """The latest crash of a model."""

    count: int  # of those in a row
    retry_at_ns: int
    reason: str

    def sentence(self, now_ns: int) -> str:
        """Why it is not loaded now, for a client."""
        seconds = max(1, -(-(self.retry_at_ns - now_ns) // SECOND_NS))
        return f"the model crashed {self.count} times in a row; it may be loaded again in {seconds} s ({self.reason})"


class Crashes:
    """Latest crashes by load key; those long ago are forgotten. All times are of one monotonic clock."""

    def __init__(self) -> None:
        self._latest: dict[str, Crash] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, key: str, reason: str, now_ns: int, *, was_of_use: bool = False) -> Crash:
        """Notes a crash; `was_of_use` where the runner had answered a request in this life of it."""
        self._latest = {known: crash for known, crash in self._latest.items() if not _is_forgotten(crash, now_ns)}
        latest = self._latest.get(key)
        count = 1 if latest is None else latest.count + 1
        crash = Crash(count, now_ns + _pause_ns(count, was_of_use), reason)
        self._latest[key] = crash
        return crash

    def pending(self, key: str, now_ns: int) -> Crash | None:
        """The crash that keeps the model from being loaded now."""
        crash = self._latest.get(key)
        return crash if crash is not None and now_ns < crash.retry_at_ns else None


def _is_forgotten(crash: Crash, now_ns: int) -> bool:
    return now_ns - crash.retry_at_ns >= FORGOTTEN_AFTER_NS


def _pause_ns(count: int, was_of_use: bool) -> int:
    if count < 2:
        return 0
    longest_ns = LONGEST_PAUSE_OF_USE_NS if was_of_use else LONGEST_PAUSE_NS
    return min(FIRST_PAUSE_NS << min(count - 2, 16), longest_ns)
