"""Another version over the one that runs, and the end of the installation."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator

import pytest

from tests.appliance.conftest import Installed
from tests.appliance.machine import SERVICE, Container, running
from tests.appliance.root import NO_NETWORK, WHEELS, Root, build_wheel
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

NEXT, BROKEN = "9.9.9", "9.9.10"
TOP = "/opt/hearth"


@pytest.fixture(scope="module")
def machine(installed: Installed) -> Iterator[Container]:
    """One whose wheels are those of the next version."""
    directory = installed.directory / "upgrade"
    wheels = directory / "wheels"
    shutil.copytree(installed.wheels, wheels, copy_function=os.link)
    for wheel in wheels.glob("hearthd-*.whl"):
        wheel.unlink()
    build_wheel(wheels, NEXT)
    build_wheel(wheels / "broken", BROKEN, broken=True)
    shutil.copy2(wheels / "install.sh", wheels / "broken")
    with running(Root(directory / "root", *installed.below), directory / "log", wheels) as machine:
        eventually(machine.is_active, "the service runs")
        yield machine


class Visitor(threading.Thread):
    """Asks for the version until told to leave, each time by a new connection."""

    def __init__(self, machine: Container) -> None:
        super().__init__(daemon=True)
        self._machine = machine
        self._leaving = threading.Event()
        self.versions: list[str] = []
        self.faults: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._leaving.wait(0.01):
            try:
                self.versions.append(self._machine.version())
            except Exception as error:
                self.faults.append(repr(error))

    def leave(self) -> None:
        """Returns when it has gone."""
        self._leaving.set()
        self.join()


def test_an_upgrade_refuses_no_connection_and_keeps_the_models(machine: Container) -> None:
    before, models = machine.version(), machine.get("/api/tags")["models"]
    visitor = Visitor(machine)
    try:
        eventually(lambda: visitor.versions, "an answer of the old version")
        machine.install()
        eventually(lambda: NEXT in visitor.versions, "an answer of the new version")
    finally:
        visitor.leave()
    assert visitor.faults == []
    assert list(dict.fromkeys(visitor.versions)) == [before, NEXT]
    assert machine.get("/api/tags")["models"] == models
    answer = machine.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 2})
    assert answer.get("eval_count") == 2, answer


def test_a_version_that_does_not_start_is_taken_back_and_no_connection_is_refused(machine: Container) -> None:
    before, visitor = machine.run("readlink", f"{TOP}/current"), Visitor(machine)
    try:
        done = machine.try_run("sh", f"{WHEELS}/broken/install.sh", **NO_NETWORK)
    finally:
        visitor.leave()
    assert done.returncode == 1
    assert "this version is broken" in done.stderr  # the journal's last words
    assert f"Hearth {BROKEN} does not run as a service" in done.stderr
    assert visitor.faults == []
    assert set(visitor.versions) == {NEXT}
    assert machine.version() == NEXT
    assert machine.run("readlink", f"{TOP}/current") == before
    assert BROKEN not in machine.run("ls", TOP)


def test_an_installation_whose_packages_are_missing_changes_nothing(machine: Container) -> None:
    before, pid = machine.run("ls", TOP), machine.main_pid()
    done = machine.try_run("sh", f"{WHEELS}/install.sh", **NO_NETWORK | {"PIP_FIND_LINKS": "/nowhere"})
    assert done.returncode == 1
    assert "could not be installed; nothing was changed" in done.stderr
    assert (machine.run("ls", TOP), machine.main_pid()) == (before, pid)


def test_an_installation_that_is_killed_leaves_the_version_that_runs(machine: Container) -> None:
    before = set(machine.run("ls", TOP).split())
    begin = f"sh {WHEELS}/install.sh & until [ $(ls {TOP} | wc -l) -gt {len(before)} ]; do sleep 0.01; done"
    machine.run("sh", "-c", f"{begin}; kill -9 $!; pkill -9 -f '[/]opt/hearth/{NEXT}'; true", **NO_NETWORK)
    assert set(machine.run("ls", TOP).split()) > before
    assert machine.version() == NEXT


def test_the_installation_again_keeps_the_settings_and_clears_up(machine: Container) -> None:
    machine.write("/etc/hearth/hearth.env", "HEARTH_KEEP_ALIVE=7m\n")
    machine.install()
    eventually(machine.is_active, "the service runs")
    assert machine.run("cat", "/etc/hearth/hearth.env") == "HEARTH_KEEP_ALIVE=7m\n"
    assert machine.version() == NEXT
    assert len(machine.run("ls", TOP).split()) == 3  # this version, the one before, and which is current


def test_an_uninstalled_service_leaves_the_models(machine: Container) -> None:
    machine.run("hearth", "uninstall-service")
    for unit in (SERVICE, "hearth.socket"):
        assert machine.show("LoadState", unit) == "not-found"
    assert machine.runners() == []
    manifests = machine.run("find", "/var/lib/hearth/models", "-path", "*/tiny/*", "-type", "f")
    assert manifests.strip()
