"""What an administrator does while clients are connected: reload, stop, start again."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.appliance.machine import SERVICE, Container
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}
LONG = ENDLESS | {"num_predict": 3000}
SETTINGS = "/etc/hearth/hearth.env"


class Stream(threading.Thread):
    """A streamed answer that is read beside the test."""

    def __init__(self, machine: Container, options: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._machine = machine
        self._options = options
        self.begun = threading.Event()
        self.received: list[dict[str, Any]] = []
        self.start()
        assert self.begun.wait(60.0)

    def run(self) -> None:
        for line in self._machine.lines("/api/generate", model="tiny", prompt="hello", options=self._options):
            self.received.append(line)
            self.begun.set()

    def last(self) -> dict[str, Any]:
        """Its last object; the stream has ended."""
        self.join(60.0)
        assert not self.is_alive()
        return self.received[-1]


def test_a_reload_puts_a_setting_in_force_and_drops_no_stream(service: Container) -> None:
    stream, before = Stream(service, LONG), service.main_pid()
    service.write(SETTINGS, "HEARTH_KEEP_ALIVE=0\n")
    service.run("systemctl", "reload", SERVICE)
    assert service.is_active()
    assert service.main_pid() == before
    last = stream.last()
    assert last["done"], last
    assert last["eval_count"] == LONG["num_predict"]
    service.post("/api/generate", model="smollm2", prompt="x", options={"num_predict": 1})
    eventually(lambda: "smollm2:latest" not in service.loaded(), "a model that is not kept is unloaded")


def test_a_reload_with_a_bad_value_keeps_the_settings_and_says_so(service: Container) -> None:
    service.write(SETTINGS, "HEARTH_KEEP_ALIVE=soon\n")
    service.try_run("systemctl", "reload", SERVICE)
    assert service.is_active()
    assert "HEARTH_KEEP_ALIVE" in service.show("StatusText")
    assert any("HEARTH_KEEP_ALIVE" in entry["MESSAGE"] for entry in service.journal("PRIORITY=3"))
    service.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 1})
    assert "tiny:latest" in service.loaded()
    service.write(SETTINGS, "")
    service.run("systemctl", "reload", SERVICE)
    assert "HEARTH_KEEP_ALIVE" not in service.show("StatusText")


def test_a_reload_says_what_the_next_start_will_change(service: Container) -> None:
    service.write(SETTINGS, "HEARTH_MODELS=/var/lib/hearth/elsewhere\n")
    service.run("systemctl", "reload", SERVICE)
    assert service.get("/api/tags")["models"] != []
    assert any("HEARTH_MODELS" in entry["MESSAGE"] for entry in service.journal("PRIORITY=4"))


def test_a_stop_lets_a_stream_come_to_its_end(service: Container) -> None:
    stream = Stream(service, LONG)
    service.run("systemctl", "stop", SERVICE)
    last = stream.last()
    assert last["done"], last
    assert service.show("Result") == "success"


def test_a_stop_ends_an_endless_stream_with_an_error(service: Container) -> None:
    service.write(SETTINGS, "HEARTH_DRAIN_TIMEOUT=1s\n")
    service.run("systemctl", "restart", SERVICE)
    stream = Stream(service, ENDLESS)
    service.run("systemctl", "stop", SERVICE)
    assert "error" in stream.last()
    assert service.show("Result") == "success"
    assert "State 'stop-sigterm' timed out" not in service.told()
    assert service.runners() == []


def test_a_request_that_comes_during_a_stop_is_answered_by_the_next_daemon(service: Container) -> None:
    service.write(SETTINGS, "HEARTH_DRAIN_TIMEOUT=1s\n")
    service.run("systemctl", "restart", SERVICE)
    stream, before = Stream(service, ENDLESS), service.main_pid()
    service.run("systemctl", "stop", "--no-block", SERVICE)
    eventually(lambda: service.show("ActiveState") == "deactivating", "the service is stopping")
    assert service.version()
    assert "error" in stream.last()
    assert service.main_pid() not in (0, before)
