"""How often, and after what pause, something is tried again."""

from __future__ import annotations

import asyncio
import random

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.messages import Settings

MAX_PAUSE_S = 30.0
MAX_ASKED_PAUSE_S = 120.0  # what a registry may ask for by Retry-After


class Retries:
    """Failures in a row. A caller tells the ones that came after progress from the ones that did not."""

    def __init__(self, settings: Settings, num_retries: int | None = None) -> None:
        self._base_s = settings.backoff_s
        self._num_retries = settings.num_retries if num_retries is None else num_retries
        self._num_failures = 0

    async def pause(self, error: Passing, *, gained: bool = False) -> None:
        """Sleeps before the next try. Raises a TransferError with `error`'s sentence where it was the last one.

        `gained`: bytes were won since the last failure, so that counting starts anew.
        """
        self._num_failures = 1 if gained else self._num_failures + 1
        if self._num_failures > self._num_retries:
            raise TransferError(str(error), error.reason, error.status) from error
        await asyncio.sleep(max(self._own_pause_s(), min(error.after_s, MAX_ASKED_PAUSE_S)))

    def _own_pause_s(self) -> float:
        pause_s = self._base_s * 2.0 ** min(self._num_failures - 1, 16)
        return min(pause_s, MAX_PAUSE_S) * random.uniform(0.75, 1.25)
