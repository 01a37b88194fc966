"""Machines with Hearth installed, for the tests of the service under a real systemd."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.appliance.machine import MACHINE_TOOLS, Container, running
from tests.appliance.root import SOURCE, Root, base, wheelhouse, why_not
from tests.e2e.daemon import eventually


@dataclass(frozen=True)
class Installed:
    """What the machines of all modules begin with: Debian, Hearth by systemd/install.sh, two models."""

    directory: Path  # for roots
    wheels: Path
    below: tuple[Path, ...]
    said: str  # by the installation


@pytest.fixture(scope="session")
def installed(smollm2_gguf: Path, tiny_gguf: Path) -> Iterator[Installed]:
    """Made by hand of the installer on a machine that runs, and then switched off."""
    if reason := why_not(MACHINE_TOOLS):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="hearth-machines-") as name:
        directory = Path(name)
        wheels = wheelhouse(directory / "wheels")
        shutil.copy2(SOURCE / "systemd/install.sh", wheels)
        root = Root(directory / "first", base())
        with running(root, directory / "first.log", wheels) as machine:
            said = machine.install()
            eventually(machine.is_active, f"the service runs; {said}")
            machine.create("smollm2", smollm2_gguf)
            machine.create("tiny", tiny_gguf)
        yield Installed(directory, wheels, (root.changes, *root.below), said)


@pytest.fixture(scope="module")
def machine(installed: Installed, request: pytest.FixtureRequest) -> Iterator[Container]:
    """One that has just been switched on, for the tests of a module."""
    name = request.module.__name__.rsplit(".", 1)[-1]
    log = installed.directory / f"{name}.log"
    with running(Root(installed.directory / name, *installed.below), log, installed.wheels) as machine:
        eventually(machine.is_active, "the service runs")
        yield machine


@pytest.fixture
def service(machine: Container) -> Container:
    """The machine; the service runs in it with nobody's changes, whatever the test before did."""
    machine.write("/etc/hearth/hearth.env", "")
    machine.run("sh", "-c", "rm -rf /etc/systemd/system/hearth.service.d; systemctl daemon-reload")
    machine.run("systemctl", "reset-failed", "hearth.service", "hearth.socket")
    machine.run("systemctl", "start", "hearth.socket")
    machine.run("systemctl", "restart", "hearth.service")
    return machine
