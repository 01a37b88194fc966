from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hearthd.log import request_id
from hearthd.scheduler.scheduler import Scheduler
from tests.hearthd.scheduler.stage import Stage, run, stored, touch, until

A, B = stored("a"), stored("b")


class Kept(logging.Handler):
    """The first word of each line, its model, and the request that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, str]] = []
        self.fields: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        told = getattr(record, "hearth_fields", {})
        self.fields.append(told)
        self.lines.append((record.getMessage().split()[0], told.get("HEARTH_MODEL", ""), request_id.get()))


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept, logger = Kept(), logging.getLogger("hearthd.scheduler")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(kept)
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(level)


async def ask(scheduler: Scheduler, number: str, model: Any) -> None:
    request_id.set(number)
    await touch(scheduler, model)


def test_a_load_is_told_of_the_request_that_it_is_for_and_an_end_of_none(kept: Kept) -> None:
    async def scenario() -> None:
        stage = Stage(gate=asyncio.Event())
        scheduler = stage.scheduler(keep_alive_ns=1_000_000)
        asked = [asyncio.create_task(ask(scheduler, number, model)) for number, model in (("1", A), ("2", B))]
        await until(lambda: scheduler.num_waiting == 2)
        assert stage.gate is not None
        stage.gate.set()
        await asyncio.wait(asked)
        await until(lambda: not stage.living)
        await scheduler.stop()

    run(scenario())
    assert {("load", "a:latest", "1"), ("ready", "a:latest", "1")} <= set(kept.lines)
    assert {("load", "b:latest", "2"), ("ready", "b:latest", "2")} <= set(kept.lines)
    assert {("expire", "a:latest", ""), ("expire", "b:latest", "")} <= set(kept.lines)
    ends = [told for line, told in zip(kept.lines, kept.fields, strict=True) if line[0] == "expire"]
    assert all(told["HEARTH_BYTES"] > 0 and told["HEARTH_DURATION_USEC"] >= 0 for told in ends)


def test_a_crash_is_told_of_its_model_and_of_no_request(kept: Kept) -> None:
    async def scenario() -> None:
        stage = Stage()
        scheduler = stage.scheduler()
        await asyncio.create_task(ask(scheduler, "1", A))
        stage.runners[0].dies()
        await until(lambda: not scheduler.loaded())
        await scheduler.stop()

    run(scenario())
    assert ("crash", "a:latest", "") in kept.lines
