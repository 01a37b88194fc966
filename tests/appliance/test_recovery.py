"""The service after what should not happen: a hang, a kill of the daemon, a kill of a runner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.appliance.machine import SERVICE, Container
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

STORE = "/var/lib/hearth/models"
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


def test_a_store_of_another_user_is_told_by_the_log_and_the_check_and_comes_back_by_itself(service: Container) -> None:
    service.run("chown", "-R", "root:", STORE)
    service.run("chmod", "700", STORE)
    try:
        assert service.try_run("systemctl", "restart", SERVICE).returncode != 0
        assert f"the store {STORE} cannot be read by the user hearth" in service.told()
        assert "Traceback" not in service.told()
        done = service.try_run("hearth", "check")
        assert done.returncode == 1
        assert f"FAIL     store        {STORE} cannot be read by the user hearth" in done.stdout
        assert f"-> chown -R hearth: {STORE}" in done.stdout
    finally:
        service.run("chown", "-R", "hearth:", STORE)
    answers(service)  # the socket holds the request until the next try to start


def test_a_store_that_the_sandbox_does_not_let_the_service_write_is_told_by_the_check(service: Container) -> None:
    service.run("install", "-d", "-o", "hearth", "/srv/elsewhere")
    service.write("/etc/hearth/hearth.env", "HEARTH_MODELS=/srv/elsewhere/models\n")
    said = service.try_run("hearth", "check").stdout
    assert "sandbox lets nobody write /srv/elsewhere/models" in said
    assert "ReadWritePaths=/srv/elsewhere/models" in said
    service.run("install", "-d", "-o", "hearth", "/srv/elsewhere/models")
    service.drop_in("store", "[Service]\nReadWritePaths=/srv/elsewhere/models\n")
    service.run("systemctl", "restart", SERVICE)
    assert service.get("/api/tags") == {"models": []}
    assert "sandbox lets nobody" not in service.try_run("hearth", "check").stdout


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
