"""The lines that the service manager gets."""

from __future__ import annotations

import os

import pytest

from hearthd.notify import MAX_STATUS_CHARS, Manager, open_manager, take_sockets


@pytest.fixture
def told() -> list[str]:
    return []


def test_a_status_is_one_line_of_bounded_length(told: list[str]) -> None:
    Manager(told.append).ready("one\ntwo  " + "x" * 500)
    ready, status = told[0].split("\n")
    assert ready == "READY=1"
    assert status.startswith("STATUS=one two x")
    assert len(status) == len("STATUS=") + MAX_STATUS_CHARS


def test_a_status_that_has_not_changed_is_told_once(told: list[str]) -> None:
    manager = Manager(told.append)
    manager.ready("idle")
    manager.status("idle")
    manager.status("busy")
    assert told == ["READY=1\nSTATUS=idle", "STATUS=busy"]


def test_an_extension_is_told_in_microseconds_and_keeps_the_status(told: list[str]) -> None:
    manager = Manager(told.append)
    manager.stopping("stopping")
    manager.extend(1.5)
    assert told == ["STOPPING=1\nSTATUS=stopping", "EXTEND_TIMEOUT_USEC=1500000\nSTATUS=stopping"]


def test_a_reload_has_the_time_of_its_beginning(told: list[str]) -> None:
    Manager(told.append).reloading()
    assert told[0].startswith("RELOADING=1\nMONOTONIC_USEC=")


def test_a_manager_that_has_gone_is_no_reason_to_go() -> None:
    def tell(_: str) -> None:
        raise ConnectionRefusedError

    Manager(tell).feed()


def test_where_there_is_no_manager_nobody_is_told() -> None:
    manager = open_manager({})
    assert not manager.listens
    manager.ready("idle")


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(variables: dict[str, str], interval_s: float) -> None:
    pytest.importorskip("systemd", reason="systemd-python is not installed")
    assert open_manager({"NOTIFY_SOCKET": "/nowhere", **variables}).watchdog_s == interval_s


def test_sockets_of_another_process_are_left_alone() -> None:
    assert take_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert take_sockets({}) == []


def test_a_status_that_differs_in_its_blanks_is_the_same(told: list[str]) -> None:
    manager = Manager(told.append)
    manager.status("busy")
    manager.status(" busy\n")
    assert told == ["STATUS=busy"]


def test_a_manager_that_has_gone_is_told_all_the_same() -> None:
    tries: list[str] = []

    def tell(text: str) -> None:
        tries.append(text)
        raise BrokenPipeError

    manager = Manager(tell)
    manager.extend(1.0, "starts")
    manager.ready("is ready")
    manager.status("works")
    manager.feed()
    manager.reloading()
    manager.stopping("stops")
    assert len(tries) == 6
