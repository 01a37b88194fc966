"""A device with 1 GiB: a runner that outgrows its limit dies alone, and a shortage elsewhere unloads idle models first.

A virtual machine, because limits take a kernel of one's own. Run by `make test-cage`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.appliance.guest import Guest, disk, running_guest, why_not
from tests.appliance.machine import SERVICE
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.cage

PATIENCE_S = 240.0
UNIT = "/sys/fs/cgroup/hearth.slice/hearth.service"
BELOW_THE_MARK_MIB, BELOW_THE_LAST_MARK_MIB = 100, 30  # available; the marks are 116, and 48 for the only model
ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}

# takes memory, a piece every tenth of a second, until little is available, and keeps it for a while
HOG = """
import sys, time
piece, floor, keep_s = int(sys.argv[1]) << 20, int(sys.argv[2]) << 20, float(sys.argv[3])
held = []
def available():
    text = open("/proc/meminfo").read()
    return int(text.partition("MemAvailable:")[2].split()[0]) << 10
while available() > floor:
    held.append(b"x" * piece)
    time.sleep(0.1)
time.sleep(keep_s)
"""
# takes memory in the cgroup that is named, until the kernel ends it
OUTGROW = """
import sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
held = []
while True:
    held.append(b"x" * (8 << 20))
"""


@pytest.fixture(scope="module")
def guest(tiny_gguf: Path, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    if reason := why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("guest")
    with running_guest(disk(directory), directory / "console") as guest:
        eventually(guest.is_active, "the service runs", PATIENCE_S)
        guest.create("tiny", tiny_gguf)
        guest.create("smollm2", smollm2_gguf)
        yield guest


@pytest.fixture
def service(guest: Guest) -> Guest:
    """The guest; the service runs anew, and nothing is loaded."""
    guest.run("sh", "-c", "rm -rf /etc/systemd/system/hearth.service.d; systemctl daemon-reload")
    guest.run("systemctl", "restart", SERVICE)
    return guest


class Pulse(threading.Thread):
    """Asks for the version again and again, each time by a new connection."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(daemon=True)
        self._guest = guest
        self._over = threading.Event()
        self.faults: list[str] = []
        self.took_s: list[float] = []
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.1):
            begun_s = time.monotonic()
            try:
                self._guest.version()
            except Exception as error:
                self.faults.append(repr(error))
            self.took_s.append(time.monotonic() - begun_s)

    def end(self) -> str:
        """What it saw, in words."""
        self._over.set()
        self.join()
        return f"{len(self.took_s)} requests, {len(self.faults)} failed, slowest {max(self.took_s):.2f} s"


class Stream(threading.Thread):
    """A streamed answer that is read beside the test."""

    def __init__(self, guest: Guest, model: str) -> None:
        super().__init__(daemon=True)
        self._guest = guest
        self._model = model
        self.begun = threading.Event()
        self.received: list[dict[str, object]] = []
        self.start()
        assert self.begun.wait(PATIENCE_S)

    def run(self) -> None:
        for line in self._guest.lines("/api/generate", model=self._model, prompt="hello", options=ENDLESS):
            self.received.append(line)
            self.begun.set()


@contextmanager
def undisturbed(guest: Guest) -> Iterator[None]:
    """In the block the daemon answers every request, is not started again, and its watchdog does not bark."""
    before, restarts, pulse = guest.main_pid(), guest.show("NRestarts"), Pulse(guest)
    try:
        yield
    finally:
        seen = pulse.end()
    print(f"\n  {seen}")
    assert pulse.faults == []
    assert (guest.main_pid(), guest.show("NRestarts")) == (before, restarts)
    assert "Watchdog timeout" not in guest.told()


def load(guest: Guest, model: str) -> None:
    """It stays loaded."""
    answer = guest.post("/api/generate", model=model, prompt="x", keep_alive=-1, options={"num_predict": 1})
    assert answer.get("done"), answer


def read(guest: Guest, path: str) -> list[str]:
    """The words of a file."""
    return guest.run("cat", path).split()


def runners(guest: Guest) -> list[str]:
    """The cgroups of loaded models."""
    return guest.run("find", f"{UNIT}/runners", "-mindepth", "1", "-type", "d").split()


def oom_kills(guest: Guest) -> int:
    """Of the whole machine since it was switched on."""
    words = read(guest, "/proc/vmstat")
    return int(words[words.index("oom_kill") + 1])


def hog(guest: Guest, floor_mib: int, keep_s: float = 10.0, piece_mib: int = 4) -> int:
    """Takes memory until so little is available, on a thread of its own; its exit status."""
    return guest.try_run("python3", "-c", HOG, str(piece_mib), str(floor_mib), str(keep_s)).returncode


def test_daemon_and_runners_are_in_cgroups_of_their_own_with_limits(service: Guest) -> None:
    load(service, "tiny")
    load(service, "smollm2")
    assert read(service, f"{UNIT}/daemon/cgroup.procs") == [str(service.main_pid())]
    assert read(service, f"{UNIT}/daemon/memory.min") == [str(64 << 20)]
    assert read(service, f"{UNIT}/memory.max") == ["max"]
    found = runners(service)
    assert len(found) == 2
    for group in found:
        (limit,), (used,) = read(service, f"{group}/memory.max"), read(service, f"{group}/memory.current")
        print(f"\n  {group.rpartition('/')[2]}: {int(used) >> 20} MiB of {int(limit) >> 20} MiB")
        assert int(used) < int(limit)
        assert read(service, f"{group}/memory.oom.group") == ["1"]
    assert "runners have no" not in service.show("StatusText")
    assert "runners have memory limits of their own" in service.try_run("hearth", "check").stdout


def test_a_runner_that_outgrows_its_limit_dies_alone(service: Guest) -> None:
    load(service, "smollm2")
    (idle,) = runners(service)
    stream = Stream(service, "tiny")
    (group,) = (found for found in runners(service) if found != idle)
    with undisturbed(service):
        service.try_run("python3", "-c", OUTGROW, group)
        stream.join(PATIENCE_S)
        assert not stream.is_alive()
        assert "outgrew its limit" in str(stream.received[-1].get("error")), stream.received[-1]
    assert service.loaded() == ["smollm2:latest"]
    assert any("outgrew its limit" in entry["MESSAGE"] for entry in service.journal())
    load(service, "tiny")  # with a larger limit, so the other may have to go
    assert group not in runners(service)
    assert "tiny:latest" in service.loaded()


@pytest.mark.parametrize("round_number", [1, 2, 3])
def test_a_shortage_elsewhere_unloads_the_idle_model(service: Guest, round_number: int) -> None:
    load(service, "smollm2")
    before = oom_kills(service)
    with undisturbed(service):
        begun_s = time.monotonic()
        assert hog(service, BELOW_THE_LAST_MARK_MIB) == 0
        print(f"\n  the hog had its memory for {time.monotonic() - begun_s:.1f} s")
    assert service.loaded() == []
    assert oom_kills(service) == before
    told = [entry["MESSAGE"] for entry in service.journal("HEARTH_MODEL=smollm2:latest")]
    assert any(message.startswith("memory is short") for message in told), told
    load(service, "smollm2")


def test_a_shortage_elsewhere_unloads_idle_models_before_it_touches_an_answer(service: Guest) -> None:
    load(service, "smollm2")
    stream, before = Stream(service, "tiny"), oom_kills(service)
    with undisturbed(service):
        assert hog(service, BELOW_THE_MARK_MIB) == 0
        so_far = len(stream.received)
        eventually(lambda: len(stream.received) > so_far, "the stream goes on", PATIENCE_S)
    assert service.loaded() == ["tiny:latest"]
    assert oom_kills(service) == before
    service.run("systemctl", "stop", SERVICE)  # the stream is endless
    stream.join(PATIENCE_S)


def test_weights_are_locked_into_memory_where_a_request_asks_for_it(service: Guest) -> None:
    options = {"num_predict": 1, "use_mlock": True}
    assert service.post("/api/generate", model="smollm2", prompt="x", keep_alive=-1, options=options).get("done")
    (group,) = runners(service)
    (pid, *_) = read(service, f"{group}/cgroup.procs")
    words = read(service, f"/proc/{pid}/status")
    locked_kib = int(words[words.index("VmLck:") + 1])
    print(f"\n  {locked_kib >> 10} MiB locked")
    assert locked_kib > 64 << 10
    assert "not locked" not in service.told()


def test_a_killed_daemon_comes_back_and_its_runners_are_gone(service: Guest) -> None:
    load(service, "tiny")
    before = service.main_pid()
    service.run("kill", "-KILL", str(before))
    eventually(lambda: service.main_pid() not in (0, before) and service.is_active(), "another daemon", PATIENCE_S)
    eventually(lambda: runners(service) == [], "the runner is gone")
    load(service, "tiny")
    assert len(runners(service)) == 1


def test_without_delegation_the_daemon_says_so_and_still_unloads_what_is_idle(service: Guest) -> None:
    service.drop_in("cage", "[Service]\nDelegate=no\n")
    service.run("systemctl", "restart", SERVICE)
    assert "no service that its cgroup is delegated to" in service.show("StatusText")
    load(service, "smollm2")
    before = oom_kills(service)
    with undisturbed(service):
        assert hog(service, BELOW_THE_LAST_MARK_MIB) == 0
    assert service.loaded() == []
    assert oom_kills(service) == before
