"""`make bench-service`: what the installed service costs on a machine with systemd.

    python -m bench.service [ROUNDS [SECONDS]]

Needs root, mmdebstrap and systemd-nspawn, as the tests of the service do. Start: from when systemd begins to start the
unit until the daemon said READY, by systemd's own clock, medians of restarts; and the first request to a stopped
service, which the socket holds until the daemon is up. Idle: processor time of the unit's cgroup and how often its
threads were woken, over SECONDS, without a model and with one loaded.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.workload import checkpoint
from tests.appliance.machine import SERVICE, Container, running
from tests.appliance.root import Root, base, wheelhouse
from tests.e2e.daemon import eventually

ROUNDS = 15
SECONDS = 120.0
SETTLE_S = 20.0  # after which what a start began is over
USEC = 1_000_000


def start_s(machine: Container) -> float:
    """Seconds that systemd saw between the beginning of a start and READY."""
    machine.run("systemctl", "restart", SERVICE)
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    begun, ready = (int(machine.show(name)) for name in names)
    return (ready - begun) / USEC


def first_answer_s(machine: Container) -> float:
    """Seconds of a request that starts the service."""
    machine.run("systemctl", "stop", SERVICE)
    begun_s = time.monotonic()
    machine.version()
    return time.monotonic() - begun_s


def idle(machine: Container, seconds: float) -> tuple[float, dict[str, float]]:
    """Share of one processor, and wake-ups a minute of each process of the service."""
    time.sleep(SETTLE_S)
    woken, used_ns, begun_s = _woken(machine), int(machine.show("CPUUsageNSec")), time.monotonic()
    time.sleep(seconds)
    passed_s = time.monotonic() - begun_s
    used_ns = int(machine.show("CPUUsageNSec")) - used_ns
    after = _woken(machine)
    named = {name: (number - woken.get(name, 0)) * 60 / passed_s for name, number in after.items()}
    return used_ns / 1e9 / passed_s, named


def _woken(machine: Container) -> dict[str, int]:
    """How often the threads of each process gave up the processor to wait."""
    pids = {"daemon": [machine.host_pid()], "runner": machine.runners(), "transfers": machine.pids("hearthd.transfer")}
    return {name: sum(map(_waits, found)) for name, found in pids.items() if found}


def _waits(pid: int) -> int:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(number) for text in texts for number in re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.M))


def main(rounds: int, seconds: float) -> None:
    """Prints two tables."""
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-service-") as name:
        directory = Path(name)
        wheels = wheelhouse(directory / "wheels")
        with running(Root(directory / "root", base()), directory / "log", wheels) as machine:
            machine.install()
            eventually(machine.is_active, "the service runs")
            machine.create("model", checkpoint())
            times = Table(title=f"start, {rounds} rounds", title_justify="left")
            for column in ("", "median s", "least", "most"):
                times.add_column(column, justify="right" if column else "left")
            for label, measure in (
                ("unit started to READY", start_s),
                ("first request to a stopped service", first_answer_s),
            ):
                found = [measure(machine) for _ in range(rounds)]
                times.add_row(label, *(f"{value:.3f}" for value in (statistics.median(found), min(found), max(found))))
            console.print(times)
            waits = Table(
                title=f"idle for {seconds:.0f} s; watchdog {machine.show('WatchdogUSec')}", title_justify="left"
            )
            for column in ("", "processor %", "wake-ups a minute"):
                waits.add_column(column, justify="right" if column == "processor %" else "left")
            for label in ("no model loaded", "one model loaded"):
                if label == "one model loaded":
                    machine.post("/api/generate", model="model", prompt="hello", keep_alive=-1)
                share, woken = idle(machine, seconds)
                told = ", ".join(f"{name} {number:.1f}" for name, number in woken.items())
                waits.add_row(label, f"{100 * share:.3f}", told)
            console.print(waits)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else ROUNDS, float(arguments[1]) if len(arguments) > 1 else SECONDS)
