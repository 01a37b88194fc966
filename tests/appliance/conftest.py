"""Machines with Hearth installed, for the tests of the service under a real systemd."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.appliance.machine import MACHINE_TOOLS, Container, running
from tests.appliance.root import BOOKWORM, TRIXIE, Root, Suite, base, make_ready, wheelhouse, why_not
from tests.e2e.daemon import eventually


@dataclass(frozen=True)
class Installed:
    """What machines begin with: Debian, Hearth by systemd/install.sh, some models."""

    directory: Path  # for roots
    wheels: Path
    below: tuple[Path, ...]
    said: str  # by the installation


def install(suite: Suite, directory: Path, **ggufs: Path) -> Installed:
    """Made by hand of the installer on a machine that runs, and then switched off."""
    wheels = wheelhouse(directory / "wheels", suite)
    root = Root(directory / "first", base(suite))
    with running(root, directory / "first.log", wheels) as machine:
        said = machine.install()
        eventually(machine.is_active, f"the service runs; {said}")
        for name, gguf in ggufs.items():
            machine.create(name, gguf)
    return Installed(directory, wheels, (root.changes, *root.below), said)


@pytest.fixture(scope="session")
def roots() -> Iterator[Path]:
    """Where machines are made, if they can be here."""
    if reason := why_not(MACHINE_TOOLS):
        pytest.skip(reason)
    make_ready(TRIXIE, BOOKWORM)
    with tempfile.TemporaryDirectory(prefix="hearth-machines-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def installed(smollm2_gguf: Path, tiny_gguf: Path, roots: Path) -> Installed:
    """What the machines of most modules begin with."""
    return install(TRIXIE, roots, smollm2=smollm2_gguf, tiny=tiny_gguf)


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
