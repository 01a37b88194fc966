"""200 clients over four slots for ten minutes: no error but what was asked for, no leak."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.daemon import eventually, running
from tests.soak.visiting import visiting
from tests.soak.watching import drift_mib, told

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("HEARTH_SOAK_SECONDS", "600"))
NUM_CLIENTS = 200
NUM_SLOTS = 4
STEADY_S = 300.0  # what is shorter than this is still warming up when its second half begins
# Growth over the second half of the run, along the line that fits best. Samples scatter by what the requests of that
# second hold: some 100 KiB in the daemon, a few MiB of scratch memory and of slots that fill in the runner.
DAEMON_DRIFT_MIB, RUNNER_DRIFT_MIB = 1.0, 8.0


def test_nothing_fails_and_nothing_leaks(
    tmp_path: Path, smollm2_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"HEARTH_NUM_PARALLEL": str(NUM_SLOTS), "HEARTH_CONTEXT_LENGTH": "2048"}
    with running(tmp_path, **settings) as daemon:
        daemon.create("model", smollm2_gguf)
        tools = "tools" in daemon.post("/api/show", model="model").json()["capabilities"]
        daemon.post("/api/generate", model="model")
        visits = asyncio.run(visiting(daemon, "model", num_clients=NUM_CLIENTS, seconds=SECONDS, tools=tools))
        eventually(lambda: daemon.loaded() == daemon.loaded(), "nobody uses the model any more")
        (runner,) = daemon.runner_pids()
        log = daemon.log
    with capsys.disabled():
        print(f"\n{NUM_CLIENTS} clients, {NUM_SLOTS} slots, {SECONDS:g} s: {visits.verdicts.total()} requests,")
        print(f"  {dict(visits.verdicts)}, {dict(visits.kinds)}")
        print(f"  {visits.num_tokens / SECONDS:.0f} tokens/s; {quantiles('between two pieces', visits.gaps_s)}")
        print(f"  {quantiles('to the first piece', visits.waits_s)}")
        print(f"  {told('daemon', visits.watch.daemon)}")
        print(f"  {told('runner', visits.watch.runners)}")
    assert set(visits.verdicts) <= {"answer", "left"}
    assert visits.faults == []
    assert "Traceback" not in log
    assert log.count("ready model:latest") == 1, f"the runner {runner} is not the first one"
    if SECONDS < STEADY_S:
        pytest.skip(f"too short to tell a leak from warming up: {SECONDS:g} s of {STEADY_S:g}")
    assert drift_mib(visits.watch.daemon) < DAEMON_DRIFT_MIB
    assert drift_mib(visits.watch.runners) < RUNNER_DRIFT_MIB


def quantiles(name: str, seconds: list[float]) -> str:
    """A line of figures, ms."""
    half, most, worst = np.quantile(np.array(seconds), [0.5, 0.99, 1.0]) * 1e3
    return f"{name}: median {half:.0f} ms, p99 {most:.0f} ms, longest {worst:.0f} ms"
