"""The service under systemd 252, that of Debian 12 and of Raspberry Pi OS of 2023: what the drop-ins are for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.conftest import install
from tests.appliance.machine import PORT, SERVICE, Container, running
from tests.appliance.root import BOOKWORM, Root
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

SETTINGS = "/etc/hearth/hearth.env"
# to this systemd; it passes them over, and the drop-ins stand in
NOT_KNOWN = ("RestartSteps", "RestartMaxDelaySec", "service type, ignoring: notify-reload", "ignoring: private")


@pytest.fixture(scope="module")
def machine(roots: Path, tiny_gguf: Path) -> Iterator[Container]:
    """One that was installed, switched off and has just been switched on again."""
    directory = roots / BOOKWORM.name
    installed = install(BOOKWORM, directory, tiny=tiny_gguf)
    with running(Root(directory / "again", *installed.below), directory / "again.log", installed.wheels) as machine:
        eventually(machine.is_active, "the service runs")
        yield machine


def test_the_service_starts_at_boot_and_a_model_answers_in_the_sandbox(machine: Container) -> None:
    assert machine.run("systemctl", "--version").startswith("systemd 252")
    assert machine.show("Type") == "notify"
    assert f"127.0.0.1:{PORT}" in machine.show("StatusText")
    lines = list(machine.lines("/api/generate", model="tiny", prompt="x", options={"num_predict": 3}))
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert machine.show("MemoryDenyWriteExecute") == "yes"


def test_the_daemon_and_its_runners_have_cgroups_of_their_own(machine: Container) -> None:
    machine.post("/api/generate", model="tiny", prompt="x", keep_alive=-1, options={"num_predict": 1})
    groups = {Path(f"/proc/{pid}/cgroup").read_text().split("hearth.service/")[-1].strip() for pid in machine.runners()}
    assert len(groups) == 1
    assert groups.pop().startswith("runners/runner-")
    assert Path(f"/proc/{machine.host_pid()}/cgroup").read_text().strip().endswith("hearth.service/daemon")


def test_its_exposure_is_low_here_too(machine: Container) -> None:
    machine.assert_hardly_exposed()


def test_the_units_hold_nothing_else_that_this_systemd_does_not_know(machine: Container) -> None:
    assert [line for line in machine.complaints() if not any(key in line for key in NOT_KNOWN)] == []


def test_a_reload_puts_a_setting_in_force(machine: Container) -> None:
    before = machine.main_pid()
    machine.write(SETTINGS, "HEARTH_KEEP_ALIVE=0\n")
    machine.run("systemctl", "reload", SERVICE)
    eventually(lambda: "changed HEARTH_KEEP_ALIVE" in machine.told(), "the daemon has read it again")
    machine.post("/api/generate", model="tiny", keep_alive=0)  # one that is loaded keeps its own time
    machine.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 1})
    eventually(lambda: machine.loaded() == [], "a model that is not kept is unloaded")
    assert machine.main_pid() == before
    machine.write(SETTINGS, "")
    machine.run("systemctl", "reload", SERVICE)


def test_a_daemon_that_hangs_is_started_again(machine: Container) -> None:
    machine.drop_in("watchdog", "[Service]\nWatchdogSec=3\n")
    machine.run("systemctl", "restart", SERVICE)
    before = machine.main_pid()
    os.kill(machine.host_pid(), signal.SIGSTOP)
    assert machine.version()  # by the next one
    assert machine.main_pid() != before
    assert "Watchdog timeout" in machine.told()


def test_a_daemon_that_dies_again_and_again_is_started_again(machine: Container) -> None:
    for _ in range(3):
        machine.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 1})
        os.kill(machine.host_pid(), signal.SIGKILL)
        eventually(lambda: not machine.is_active(), "the service is down")
        eventually(machine.is_active, "the service is up again")
    assert machine.runners() == []


def test_a_request_that_comes_during_a_restart_is_not_refused(machine: Container) -> None:
    machine.run("systemctl", "restart", "--no-block", SERVICE)
    assert all(machine.version() for _ in range(20))
    eventually(machine.is_active, "the service is active again")
