"""The service after what should not happen: a hang, a kill of the daemon, a kill of a runner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.appliance.machine import SERVICE, Container
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


def test_a_daemon_that_hangs_is_started_again_and_the_journal_says_why(service: Container) -> None:
    service.drop_in("watchdog", "[Service]\nWatchdogSec=3\n")
    service.run("systemctl", "restart", SERVICE)
    answers(service)
    before = service.main_pid()
    os.kill(service.host_pid(), signal.SIGSTOP)
    assert service.version()  # by the next one; the socket holds the request until then
    eventually(service.is_active, "the service is active again")
    assert service.main_pid() != before
    assert int(service.show("NRestarts")) == 1
    assert "Watchdog timeout" in service.told()
    answers(service)


def test_a_daemon_that_is_killed_is_started_again_and_its_runners_are_gone(service: Container) -> None:
    answers(service)
    daemon, (runner,) = service.host_pid(), service.runners()
    before = service.main_pid()
    os.kill(daemon, signal.SIGKILL)
    eventually(lambda: service.main_pid() not in (0, before) and service.is_active(), "another daemon")
    eventually(lambda: not is_running(runner), "the runner that was left over ends")
    answers(service)
    assert len(service.runners()) == 1


def test_a_runner_that_is_killed_ends_its_stream_with_an_error_and_nothing_else(service: Container) -> None:
    before = service.main_pid()
    lines = service.lines("/api/generate", model="tiny", prompt="hello", options=ENDLESS)
    next(lines)
    (runner,) = service.runners()
    os.kill(runner, signal.SIGKILL)
    last = list(lines)[-1]
    assert list(last) == ["error"]
    assert "ended unexpectedly" in last["error"]
    answers(service)
    assert service.main_pid() == before
    assert service.show("NRestarts") == "0"


def test_a_daemon_that_dies_again_and_again_is_started_again_for_ever(service: Container) -> None:
    for _ in range(6):  # systemd's own limit is 5 starts within 10 s
        os.kill(service.host_pid(), signal.SIGKILL)
        eventually(lambda: not service.is_active(), "the service is down")
        eventually(service.is_active, "the service is up again")
    answers(service)


def answers(machine: Container) -> None:
    """A chat is answered."""
    answer = machine.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 2})
    assert answer["eval_count"] == 2, answer


def is_running(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
