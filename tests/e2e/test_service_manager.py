"""What a service manager hands the daemon and hears from it: systemd-socket-activate(1), sd_notify(3).

The manager here is a socket that is read; the whole of systemd is in tests/appliance.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, eventually, free_port, running

ACTIVATE = "systemd-socket-activate"
WHY_NOT = "" if shutil.which(ACTIVATE) else f"{ACTIVATE} is not installed (Debian: systemd)"
WHY_NOT = WHY_NOT or (
    "" if find_spec("systemd") else "systemd-python is not installed: it needs libsystemd-dev and gcc"
)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

WATCHDOG = {"WATCHDOG_USEC": "400000"}
ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


class Manager(threading.Thread):
    """Keeps what it is told. It ends with its socket."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.told: list[dict[str, str]] = []
        self.start()

    def run(self) -> None:
        while text := self._socket.recv(1 << 16).decode():
            self.told.append(dict(line.split("=", 1) for line in text.splitlines()))

    def with_key(self, key: str) -> list[dict[str, str]]:
        """The words that have it."""
        return [word for word in self.told if key in word]

    def wait_for(self, key: str, number: int = 1) -> dict[str, str]:
        """The word of that number that has the key."""
        eventually(lambda: len(self.with_key(key)) >= number, f"{key} is told; so far: {self.told}")
        return self.with_key(key)[number - 1]

    def status(self) -> str:
        """The last one."""
        return self.with_key("STATUS")[-1]["STATUS"]

    def close(self) -> None:
        """It hears no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@contextmanager
def activated(directory: Path, manager: Manager, *addresses: str, **settings: str) -> Iterator[Daemon]:
    """A daemon that is started by the first connection to one of the addresses; by default that of HEARTH_HOST."""
    settings |= {"NOTIFY_SOCKET": manager.address}
    port = free_port()
    settings = {"HEARTH_HOST": f"127.0.0.1:{port}"} | settings
    listening = addresses or (f"127.0.0.1:{port}",)
    passed = ("HEARTH_MODELS", "HOME", "PATH", *(name for name in os.environ if name.startswith("XDG_")), *settings)
    wrap = [ACTIVATE, *(f"--listen={address}" for address in listening), *(f"--setenv={name}" for name in passed)]
    daemon = Daemon(directory, wrap=wrap, **settings)
    daemon.move_to(int(listening[0].rpartition(":")[2]))
    try:
        daemon.wait_until_ready()
        yield daemon
    finally:
        daemon.close()


def test_the_manager_hears_that_the_daemon_is_ready_and_then_that_it_is_well(tmp_path: Path, manager: Manager) -> None:
    with activated(tmp_path, manager, **WATCHDOG) as daemon:
        ready = manager.wait_for("READY")
        assert ready["READY"] == "1"
        assert f"at {daemon.url}" in ready["STATUS"]
        assert "no model loaded" in ready["STATUS"]
        assert manager.wait_for("WATCHDOG", 4)["WATCHDOG"] == "1"
        keys = [next(iter(word)) for word in manager.told]
        assert keys[0] == "READY"


def test_a_manager_without_a_watchdog_is_told_nothing_more(tmp_path: Path, manager: Manager) -> None:
    with activated(tmp_path, manager):
        manager.wait_for("READY")
        daemon_was_idle_s = 1.0
        time.sleep(daemon_was_idle_s)
        assert len(manager.told) == 1


def test_the_status_names_what_is_loaded(tmp_path: Path, manager: Manager, tiny_gguf: Path) -> None:
    with activated(tmp_path, manager) as daemon:
        daemon.create("tiny", tiny_gguf)
        assert daemon.post("/api/generate", model="tiny", keep_alive=-1).status_code == 200
        eventually(lambda: "tiny:latest loaded" in manager.status(), "the status names the model")
        assert daemon.post("/api/generate", model="tiny", keep_alive=0).status_code == 200
        eventually(lambda: "no model loaded" in manager.status(), "the status names no model")


def test_a_reload_puts_settings_in_force_and_tells_when_it_began_and_ended(tmp_path: Path, manager: Manager) -> None:
    variables = tmp_path / "hearth.env"
    variables.write_text("HEARTH_LOG_REQUESTS=0\n")
    began_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with activated(tmp_path, manager, HEARTH_ENV_FILE=str(variables), HEARTH_LOG_REQUESTS="0") as daemon:
        daemon.http.get("/api/version")
        assert "/api/version" not in daemon.log
        variables.write_text("HEARTH_LOG_REQUESTS=1\nHEARTH_MODELS=/elsewhere\n")
        daemon.send_signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING")
        ended_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert began_usec < int(reloading["MONOTONIC_USEC"]) < ended_usec
        manager.wait_for("READY", 2)
        assert [key for word in manager.told for key in ("READY", "RELOADING") if key in word] == [
            *("READY", "RELOADING", "READY")
        ]
        daemon.http.get("/api/version")
        eventually(lambda: "/api/version" in daemon.log, "the request is in the log")
        assert "HEARTH_MODELS takes effect with the next start" in daemon.log


def test_a_reload_of_what_cannot_be_read_keeps_the_settings_and_the_status_says_so(
    tmp_path: Path, manager: Manager
) -> None:
    variables = tmp_path / "hearth.env"
    variables.write_text("")
    with activated(tmp_path, manager, HEARTH_ENV_FILE=str(variables)) as daemon:
        variables.write_text("HEARTH_KEEP_ALIVE=soon\nHEARTH_LOG_REQUESTS=1\n")
        daemon.send_signal(signal.SIGHUP)
        assert "HEARTH_KEEP_ALIVE='soon'" in manager.wait_for("READY", 2)["STATUS"]
        daemon.http.get("/api/version")
        assert "/api/version" not in daemon.log
        variables.write_text("")
        daemon.send_signal(signal.SIGHUP)
        assert "HEARTH_KEEP_ALIVE" not in manager.wait_for("READY", 3)["STATUS"]


def test_a_start_that_waits_for_a_model_asks_for_more_time(tmp_path: Path, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a registry that takes connections and says nothing
        name = f"http://127.0.0.1:{silent.getsockname()[1]}/library/tiny"
        policy = tmp_path / "hearth.toml"
        policy.write_text(f'[boot]\nwait = true\n[[models]]\nname = "{name}"\n')
        with activated(tmp_path, manager, HEARTH_POLICY=str(policy)) as daemon:
            extended = manager.wait_for("EXTEND_TIMEOUT_USEC")
            assert int(extended["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
            eventually(lambda: "pulling" in manager.status(), "the status says what is done")
            assert manager.with_key("READY") == []
            assert daemon.http.get("/api/version").status_code == 200
            silent.close()
            policy.write_text("")
            daemon.send_signal(signal.SIGHUP)
            manager.wait_for("READY")


def test_a_stop_is_told_and_asks_for_the_time_that_streams_need(
    tmp_path: Path, manager: Manager, tiny_gguf: Path
) -> None:
    with activated(tmp_path, manager, HEARTH_DRAIN_TIMEOUT="1s") as daemon:
        daemon.create("tiny", tiny_gguf)
        asked = {"model": "tiny", "prompt": "hello", "options": ENDLESS}
        with daemon.http.stream("POST", "/api/generate", json=asked) as answer:
            lines = answer.iter_lines()
            next(lines)
            daemon.send_signal(signal.SIGTERM)
            stopping = manager.wait_for("STOPPING")
            assert "1 request" in stopping["STATUS"]
            assert int(manager.wait_for("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > 1_000_000
            assert "error" in list(lines)[-1]
        assert daemon.wait() == 0


def test_what_systemd_listens_on_counts_and_another_setting_is_named(tmp_path: Path, manager: Manager) -> None:
    handed, asked = free_port(), free_port()
    with activated(tmp_path, manager, f"127.0.0.1:{handed}", HEARTH_HOST=f"127.0.0.1:{asked}") as daemon:
        assert f"at http://127.0.0.1:{handed}" in manager.wait_for("READY")["STATUS"]
        assert f"HEARTH_HOST=http://127.0.0.1:{asked} has no effect" in daemon.log
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", asked))


def test_the_daemon_answers_at_each_address_that_it_is_handed(tmp_path: Path, manager: Manager) -> None:
    ports = free_port(), free_port()
    with activated(tmp_path, manager, *(f"127.0.0.1:{port}" for port in ports)) as daemon:
        for port in ports:
            assert f"http://127.0.0.1:{port}" in manager.wait_for("READY")["STATUS"]
            daemon.move_to(port)
            assert daemon.http.get("/api/version").status_code == 200


def test_a_socket_that_is_no_tcp_socket_is_refused_with_its_name(tmp_path: Path, manager: Manager) -> None:
    path = tmp_path / "hearth.sock"
    command = [ACTIVATE, f"--listen={path}", sys.executable, "-m", "hearthd"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_plain(tmp_path)) as process,
        socket.socket(socket.AF_UNIX) as client,
    ):
        eventually(_connects(client, path), "the socket is there")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{path}" in said
    assert "no TCP socket" in said
    assert "Traceback" not in said


def test_without_the_binding_a_service_says_what_to_install(tmp_path: Path, manager: Manager) -> None:
    missing = tmp_path / "missing" / "systemd"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ImportError\n")
    environ = _plain(tmp_path) | {"NOTIFY_SOCKET": manager.address, "PYTHONPATH": str(missing.parent)}
    command = [sys.executable, "-m", "hearthd"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "apt install python3-systemd" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_manager_that_has_gone_stops_nothing(tmp_path: Path) -> None:
    with running(tmp_path, NOTIFY_SOCKET=str(tmp_path / "gone")) as daemon:
        assert daemon.http.get("/api/version").status_code == 200


def _plain(directory: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HEARTH_", "OLLAMA_"))}
    return kept | {"HEARTH_MODELS": str(directory / "models"), "HEARTH_HOST": f"127.0.0.1:{free_port()}"}


def _connects(client: socket.socket, path: Path) -> Callable[[], bool]:
    def connects() -> bool:
        return client.connect_ex(str(path)) == 0

    return connects
