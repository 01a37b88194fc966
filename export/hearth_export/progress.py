"""Progress of a conversion, and its NDJSON form on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

INTERVAL_S = 0.1

# stage, done bytes, total bytes
Progress = Callable[[str, int, int], None]


def say(line: dict[str, Any]) -> None:
    """One JSON object on a line of its own, flushed. BrokenPipeError where nobody reads any more."""
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


class Reporter:
    """A Progress that prints at most ten lines a second, and every first and last one of a stage."""

    def __init__(self) -> None:
        self._stage = ""
        self._last_s = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if stage == self._stage and done != total and now_s - self._last_s < INTERVAL_S:
            return
        self._stage, self._last_s = stage, now_s
        say({"stage": stage, "done": done, "total": total})
