"""Resident memory of a daemon and its runners, sampled while something else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from hearthd.memory import rss_bytes
from tests.e2e.daemon import Daemon

MIB = 1 << 20
PERIOD_S = 1.0


@dataclass(slots=True)
class Watch:
    """Samples in MiB, one a second."""

    daemon: list[float] = field(default_factory=list)
    runners: list[float] = field(default_factory=list)

    def add(self, daemon: Daemon) -> None:
        """Another sample."""
        self.daemon.append(rss_bytes(daemon.process.pid) / MIB)
        self.runners.append(sum(rss_bytes(pid) for pid in daemon.runner_pids()) / MIB)


@asynccontextmanager
async def watched(daemon: Daemon) -> AsyncIterator[Watch]:
    """Samples for as long as the block runs."""
    watch = Watch()

    async def sample() -> None:
        while True:
            watch.add(daemon)
            await asyncio.sleep(PERIOD_S)

    task = asyncio.create_task(sample())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait([task])


def drift_mib(samples: list[float]) -> float:
    """What the second half of the samples grew by, along the line that fits them best (least squares)."""
    half = np.array(samples[len(samples) // 2 :])
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return float(slope * len(half))


def told(name: str, samples: list[float]) -> str:
    """A line of figures."""
    return (
        f"{name} RSS: {samples[0]:.1f} MiB at first, {max(samples):.1f} most, {samples[-1]:.1f} at last; "
        f"the second half of {len(samples)} samples drifts by {drift_mib(samples):+.2f} MiB"
    )
