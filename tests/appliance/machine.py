"""Linux machines with systemd as their first process; here one in a container without a network: systemd-nspawn(1).

It ends with the thread that made it, however that ends, and leaves no mount behind.
"""

from __future__ import annotations

import ctypes
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.appliance.root import NO_NETWORK, PLAIN, TOOLS, WHEELS, Root, alone
from tests.e2e.daemon import PATIENCE_S, eventually

PORT = 11434
SERVICE = "hearth.service"
MAX_EXPOSURE = 1.5  # of 10
MACHINE_TOOLS = (*TOOLS, "systemd-nspawn", "nsenter")
CLONE_NEWNET = 0x40000000  # linux/sched.h

Fields = dict[str, Any]


class Connection(http.client.HTTPConnection):
    """HTTP with a machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("127.0.0.1", PORT, timeout=PATIENCE_S)
        self._machine = machine

    def connect(self) -> None:
        """As the first request wants it."""
        self.sock = self._machine.connected(self.timeout or PATIENCE_S)


class Machine(ABC):
    """A machine that is run by systemd, and Hearth on it."""

    @abstractmethod
    def try_run(self, *command: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """A program of the machine, run to its end by root of the machine; `text` is its standard input."""

    @abstractmethod
    def connected(self, timeout_s: float) -> socket.socket:
        """A connection with what listens on PORT."""

    def is_up(self) -> bool:
        """Whether the boot is over and all services of it have been started."""
        return self.try_run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def run(self, *command: str, text: str = "", **environment: str) -> str:
        """What a program of the machine wrote; it succeeded."""
        done = self.try_run(*command, text=text, **environment)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, *options: str) -> str:
        """Install Hearth, or another version, from the wheels that were laid down."""
        return self.run("sh", f"{WHEELS}/install.sh", *options, **NO_NETWORK)

    def show(self, name: str, unit: str = SERVICE) -> str:
        """A property of a unit: systemctl(1), show."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def is_active(self, unit: str = SERVICE) -> bool:
        """Whether the unit runs, and has said that it is ready."""
        return self.show("ActiveState", unit) == "active"

    def main_pid(self) -> int:
        """The daemon's, as the machine counts; 0 where it does not run."""
        return int(self.show("MainPID"))

    def complaints(self) -> list[str]:
        """What systemd finds wrong in the units: systemd-analyze(1), verify."""
        units = [self.show("FragmentPath", unit) for unit in (SERVICE, "hearth.socket", "hearth.slice")]
        done = self.try_run("systemd-analyze", "verify", "--man=no", *units)
        return (done.stdout + done.stderr).splitlines() or ["no reason given"] * bool(done.returncode)

    def assert_hardly_exposed(self) -> None:
        """What systemd rates the sandbox is printed, and at most MAX_EXPOSURE: systemd-analyze(1), security."""
        threshold = f"--threshold={MAX_EXPOSURE * 10:g}"
        done = self.try_run("systemd-analyze", "security", "--no-pager", threshold, SERVICE)
        print(done.stdout.strip().splitlines()[-1])
        assert done.returncode == 0, done.stdout + done.stderr

    def drop_in(self, name: str, text: str, unit: str = SERVICE) -> None:
        """Settings of a unit beside its file; from the next start."""
        self.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
        self.run("systemctl", "daemon-reload")

    def write(self, path: str, text: str) -> None:
        """A file of the machine; one that is there keeps its owner and mode."""
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "-", path, text=text)

    def journal(self, *matches: str, unit: str = SERVICE) -> list[Fields]:
        """Its entries, oldest first; `matches` such as PRIORITY=4 narrow them."""
        words = ("journalctl", "--no-pager", "--output=json", "--all", f"_SYSTEMD_UNIT={unit}", *matches)
        return [json.loads(line) for line in self.run(*words).splitlines()]

    def told(self, unit: str = SERVICE) -> str:
        """What the service and the service manager said of it, as people read it."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    @contextmanager
    def asked(self, method: str, path: str, body: Any = None, **fields: Any) -> Iterator[http.client.HTTPResponse]:
        """The answer's head; its body is read in the block."""
        connection = Connection(self)
        try:
            connection.request(method, path, body=json.dumps(fields) if body is None and fields else body)
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, path: str) -> Fields:
        """The answer's object."""
        with self.asked("GET", path) as answer:
            found: Fields = json.loads(answer.read())
            return found

    def post(self, path: str, **fields: Any) -> Fields:
        """The answer's object, of a request that does not stream."""
        with self.asked("POST", path, **{"stream": False, **fields}) as answer:
            found: Fields = json.loads(answer.read())
            return found

    def lines(self, path: str, **fields: Any) -> Iterator[Fields]:
        """The objects of a streamed answer as they come."""
        with self.asked("POST", path, **fields) as answer:
            assert answer.status == 200, answer.read()
            yield from map(json.loads, answer)

    def create(self, name: str, gguf: Path) -> None:
        """Make a model from a GGUF file of this machine's host, as a client does that is elsewhere."""
        data = gguf.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with self.asked("POST", f"/api/blobs/{digest}", data) as answer:
            assert answer.status in (200, 201), answer.read()
        *_, last = self.lines("/api/create", model=name, files={gguf.name: digest})
        assert last == {"status": "success"}, last

    def version(self) -> str:
        """What /api/version says."""
        return str(self.get("/api/version")["version"])

    def loaded(self) -> list[str]:
        """The names of the loaded models."""
        return [model["name"] for model in self.get("/api/ps")["models"]]


class Container(Machine):
    """One in namespaces, on `root`; `wheels` is seen at WHEELS."""

    def __init__(self, root: Root, log: Path, wheels: Path | None = None) -> None:
        self.root = root
        self._log = log
        flags = ["--register=no", "--keep-unit", "--private-network", "--console=read-only", "--quiet"]
        if wheels is not None:
            flags.append(f"--bind-ro={wheels}:{WHEELS}")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                root.wrap("systemd-nspawn", *flags, f"--directory={root.tree}", "--boot"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**PLAIN, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self.leader = 0

    def wait_until_up(self) -> None:
        """Returns when the boot is over and all services of it have been started."""
        self.leader = eventually(self._first_process, "the machine's first process")
        eventually(self.is_up, f"the machine is up; its console: {self._log.read_text(errors='replace')}")
        self.run("ip", "link", "set", "lo", "up")

    def _first_process(self) -> int:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        named = (int(pid) for pid in tasks if _read(Path(f"/proc/{pid}/comm")) == "systemd\n")
        return next(named, 0)

    def try_run(self, *command: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """As Machine has it."""
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        return subprocess.run(
            ("nsenter", f"--target={self.leader}", "--all", "--", *command),
            env={**PLAIN, **environment},
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=5 * PATIENCE_S,
        )

    def connected(self, timeout_s: float) -> socket.socket:
        """As Machine has it."""
        found: list[socket.socket] = []
        worker = threading.Thread(target=lambda: found.append(self._make_socket()))
        worker.start()
        worker.join()
        found[0].settimeout(timeout_s)
        found[0].connect(("127.0.0.1", PORT))
        return found[0]

    def _make_socket(self) -> socket.socket:
        """In a thread that ends after it: the thread has left the network that the others are in."""
        fd = os.open(f"/proc/{self.leader}/ns/net", os.O_RDONLY)
        try:
            library = ctypes.CDLL(None, use_errno=True)
            if library.setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            return socket.socket()
        finally:
            os.close(fd)

    def pids(self, word: str) -> list[int]:
        """The service's processes whose command line has the word, as this machine's host counts."""
        words = ((pid, _read(Path(f"/proc/{pid}/cmdline")).split("\0")) for pid in self._host_pids())
        return [pid for pid, found in words if word in found]

    def _host_pids(self) -> list[int]:
        inside = Path(f"/proc/{self.leader}/ns/pid").stat().st_ino
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "ns/pid").stat().st_ino == inside:
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def host_pid(self) -> int:
        """The daemon's, as this machine's host counts."""
        own = str(self.main_pid())
        for pid in self._host_pids():
            numbers = re.search(r"^NSpid:(.*)$", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
            if numbers is not None and numbers[1].split()[-1] == own:
                return pid
        raise AssertionError(f"no process {own} in the machine")

    def runners(self) -> list[int]:
        """The processes of loaded models, as this machine's host counts."""
        return self.pids("hearthd.engine")

    def close(self) -> None:
        """Power off, in order if it can."""
        self._process.terminate()  # systemd-nspawn passes a power-off on
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(root: Root, log: Path, wheels: Path | None = None) -> Iterator[Container]:
    """A machine that is up; it is off after the block."""
    with alone("machine"):  # all of them would be in the same control group
        machine = Container(root, log, wheels)
        try:
            machine.wait_until_up()
            yield machine
        finally:
            machine.close()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
