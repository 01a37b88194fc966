"""Another version over the one that runs, and the end of the installation."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator

import pytest

from tests.appliance.conftest import Installed
from tests.appliance.machine import SERVICE, Container, running
from tests.appliance.root import Root, build_wheel
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

NEXT = "9.9.9"


@pytest.fixture(scope="module")
def machine(installed: Installed) -> Iterator[Container]:
    """One whose wheels are those of the next version."""
    directory = installed.directory / "upgrade"
    wheels = directory / "wheels"
    shutil.copytree(installed.wheels, wheels, copy_function=os.link)
    for wheel in wheels.glob("hearthd-*.whl"):
        wheel.unlink()
    build_wheel(wheels, NEXT)
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


def test_the_installation_again_changes_nothing(machine: Container) -> None:
    machine.write("/etc/hearth/hearth.env", "HEARTH_KEEP_ALIVE=7m\n")
    machine.install()
    eventually(machine.is_active, "the service runs")
    assert machine.run("cat", "/etc/hearth/hearth.env") == "HEARTH_KEEP_ALIVE=7m\n"
    assert machine.version() == NEXT


def test_an_uninstalled_service_leaves_the_models(machine: Container) -> None:
    machine.run("hearth", "uninstall-service")
    for unit in (SERVICE, "hearth.socket"):
        assert machine.show("LoadState", unit) == "not-found"
    assert machine.runners() == []
    manifests = machine.run("find", "/var/lib/hearth/models", "-path", "*/tiny/*", "-type", "f")
    assert manifests.strip()
