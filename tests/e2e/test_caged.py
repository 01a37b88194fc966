"""A daemon whose cgroup is delegated to it, as a service's is; without limits where the kernel has none here."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, eventually, running
from tests.service_group import INVOCATION, ServiceGroup, missing, service_group

WHY_NOT = missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def group() -> Iterator[ServiceGroup]:
    with service_group() as group:
        yield group


def generate(daemon: Daemon, **fields: object) -> None:
    answer = daemon.post("/api/generate", model="tiny", prompt="a", stream=False, options={"num_predict": 4}, **fields)
    assert answer.status_code == 200, answer.text


def test_each_process_is_in_a_cgroup_of_its_own_that_goes_with_it(
    group: ServiceGroup, tmp_path: Path, tiny_gguf: Path
) -> None:
    with running(tmp_path, wrap=group.wrap(), **INVOCATION) as daemon:
        assert group.pids("daemon") == [daemon.process.pid]
        daemon.create("tiny", tiny_gguf)
        generate(daemon)
        (runner,) = group.groups("runners")
        assert group.pids(f"runners/{runner}") == daemon.runner_pids() != []
        assert not [name for name in group.groups("jobs") if name.startswith("converter")]
        generate(daemon, keep_alive=0)
        eventually(lambda: not group.groups("runners"), "the runner's cgroup is gone")
        assert group.pids("daemon") == [daemon.process.pid]
    assert not group.pids("")


def test_a_killed_runner_takes_its_cgroup_along_and_the_next_one_has_another(
    group: ServiceGroup, tmp_path: Path, tiny_gguf: Path
) -> None:
    with running(tmp_path, wrap=group.wrap(), **INVOCATION) as daemon:
        daemon.create("tiny", tiny_gguf)
        generate(daemon)
        (first,) = group.groups("runners")
        (group.path / "runners" / first / "cgroup.kill").write_text("1")
        eventually(lambda: not daemon.loaded(), "the daemon has noticed")
        generate(daemon)
        (second,) = group.groups("runners")
        assert second != first


def test_a_daemon_that_was_killed_is_followed_by_one_that_finds_its_place(
    group: ServiceGroup, tmp_path: Path, tiny_gguf: Path
) -> None:
    with running(tmp_path, wrap=group.wrap(), **INVOCATION) as daemon:
        daemon.create("tiny", tiny_gguf)
        generate(daemon)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    with running(tmp_path, wrap=group.wrap(), **INVOCATION) as daemon:
        assert group.pids("daemon") == [daemon.process.pid]
        generate(daemon)
        eventually(lambda: len(group.groups("runners")) == 1, "only the loaded model has a cgroup")
