"""SIGKILL of a random runner every few seconds, for minutes, while clients of several models are answered."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.e2e.daemon import running
from tests.soak.killing import killing
from tests.soak.watching import drift_mib, told
from tests.tiny import write_tiny_gguf

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("HEARTH_SOAK_KILL_SECONDS", "300"))
EVERY_S = 3.0
NUM_CLIENTS = 16
MODELS = ["first", "second", "third"]
# Growth of the daemon over the second half. Each kill costs it buffers of new sockets and the allocator's luck, some
# hundred KiB up and down; five minutes with 100 kills and 10 KiB leaked at each would show as 0.5 MiB.
DRIFT_MIB = 1.0


def test_requests_end_and_the_daemon_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, HEARTH_NUM_PARALLEL="4", HEARTH_CONTEXT_LENGTH="2048") as daemon:
        for seed, name in enumerate(MODELS):
            daemon.create(name, write_tiny_gguf(tmp_path / f"{name}.gguf", seed=seed))
        story = asyncio.run(killing(daemon, MODELS, num_clients=NUM_CLIENTS, seconds=SECONDS, every_s=EVERY_S))
        log = daemon.log
    with capsys.disabled():
        print(f"\n{story.num_kills} kills in {SECONDS:g} s; the slowest request took {story.slowest_s:.1f} s")
        for verdict, count in story.verdicts.most_common():
            print(f"  {count:6}  {verdict}")
        print(told("daemon", story.watch.daemon))
    assert story.num_kills > SECONDS / EVERY_S / 4
    assert story.unforeseen() == []
    assert story.verdicts["answer"] > 0
    assert "Traceback" not in log
    assert drift_mib(story.watch.daemon) < DRIFT_MIB
