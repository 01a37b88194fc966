"""The bandwidth limit of the whole process."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.05  # bytes are let through in slices of this much time, so that low rates are smooth too
MIN_STEP_BYTES = 1 << 10


class Rate:
    """Lets `bytes_per_s` through, all users together, in the order of asking; 0: no limit."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = max(0, bytes_per_s)
        self._free_at_s = 0.0  # monotonic time at which all that was let through is paid for

    def step_bytes(self, most: int) -> int:
        """How many bytes to ask for at once, at most `most`."""
        if not self._bytes_per_s:
            return most
        return min(most, max(MIN_STEP_BYTES, int(self._bytes_per_s * SLICE_S)))

    async def take(self, num_bytes: int) -> None:
        """Returns when `num_bytes` more may pass."""
        if not self._bytes_per_s:
            return
        now_s = time.monotonic()
        self._free_at_s = max(self._free_at_s, now_s - SLICE_S) + num_bytes / self._bytes_per_s
        if self._free_at_s > now_s:
            await asyncio.sleep(self._free_at_s - now_s)
