"""What the manager hears while the daemon runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hearthd import supervision
from hearthd.notify import Manager
from hearthd.supervision import Health, StatusLine, awaited, feed

PATIENCE_S = 10.0


async def until(told: list[str], number: int) -> None:
    """Returns when so much was told."""
    async with asyncio.timeout(PATIENCE_S):
        while len(told) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_a_daemon_that_is_ill_is_not_reported_well_until_it_has_recovered(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    complaints = ["the loop is stuck"] * 3

    async def live() -> None:
        health = Health(lambda: complaints.pop() if complaints else "")
        task = asyncio.create_task(feed(Manager(told.append, 0.001), health))
        await until(told, 2)
        task.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(live())
    assert set(told) == {"WATCHDOG=1"}
    assert caplog.text.count("the watchdog is not fed: the loop is stuck") == 3


def test_without_a_watchdog_nothing_is_fed() -> None:
    told: list[str] = []
    asyncio.run(feed(Manager(told.append, 0.0), Health()))
    assert told == []


def test_threads_for_files_that_do_not_answer_are_a_complaint() -> None:
    async def complain() -> str:
        health = Health(lambda: "", files_s=0.0)
        assert health.complaint() == ""  # they were only asked
        return health.complaint()

    assert "the threads for files" in asyncio.run(complain())


def test_threads_for_files_that_answered_are_left_alone_for_a_while() -> None:
    async def num_questions(ask_s: float) -> int:
        health, threads = Health(ask_s=ask_s), CountingThreads()
        asyncio.get_running_loop().set_default_executor(threads)
        for _ in range(3):
            assert health.complaint() == ""
            await asyncio.sleep(0.05)
        return threads.num_submitted

    assert asyncio.run(num_questions(60.0)) == 1
    assert asyncio.run(num_questions(0.0)) == 3


class CountingThreads(ThreadPoolExecutor):
    """Counts what it is given."""

    num_submitted = 0

    def submit(self, *arguments: Any, **named: Any) -> Any:
        self.num_submitted += 1
        return super().submit(*arguments, **named)


def test_the_first_part_that_is_ill_is_named() -> None:
    async def complain() -> str:
        return Health(lambda: "", lambda: "one", lambda: "two").complaint()

    assert asyncio.run(complain()) == "one"


def test_changes_are_gathered_into_one_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "SETTLE_S", 0.01)
    told: list[str] = []

    async def live() -> None:
        status = StatusLine(Manager(told.append), lambda: "busy")
        for _ in range(5):
            status.changed()
        await until(told, 1)
        status.end()
        status.changed()
        await asyncio.sleep(0.05)

    asyncio.run(live())
    assert told == ["STATUS=busy"]


def test_a_long_start_asks_for_time_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "BEAT_S", 0.01)
    told: list[str] = []

    async def live() -> None:
        done = asyncio.Event()
        task = asyncio.create_task(awaited(Manager(told.append), lambda: "pulling", done))
        await until(told, 3)
        done.set()
        await task

    asyncio.run(live())
    assert set(told) == {"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=pulling"}


def test_threads_for_files_are_a_complaint_until_they_answer() -> None:
    release = threading.Event()

    async def live() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, release.wait, PATIENCE_S)
        health = Health(files_s=0.01)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not health.complaint():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                release.set()
                while health.complaint():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        finally:
            release.set()

    asyncio.run(live())


def test_a_status_that_ended_keeps_what_it_was_about_to_say() -> None:
    told: list[str] = []

    async def live() -> None:
        manager = Manager(told.append)
        ended, other = StatusLine(manager, lambda: "ended"), StatusLine(manager, lambda: "other")
        ended.changed()
        other.changed()
        ended.end()
        await until(told, 1)

    asyncio.run(live())
    assert told == ["STATUS=other"]


def test_a_status_has_what_is_so_when_it_is_told() -> None:
    told: list[str] = []
    state = ["idle"]

    async def live() -> None:
        status = StatusLine(Manager(told.append), lambda: state[0])
        for number, state[0] in enumerate(("one", "two"), 1):
            status.changed()
            state[0] += " later"
            await until(told, number)

    asyncio.run(live())
    assert told == ["STATUS=one later", "STATUS=two later"]


def test_where_nobody_listens_nothing_is_described() -> None:
    def describe() -> str:
        raise AssertionError

    StatusLine(Manager(), describe).changed()


def test_for_what_is_over_no_time_is_asked() -> None:
    told: list[str] = []

    async def live() -> None:
        done = asyncio.Event()
        done.set()
        await awaited(Manager(told.append), lambda: "pulling", done)

    asyncio.run(live())
    assert told == []
