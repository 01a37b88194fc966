"""Runners that are told to leave, with prompts to save and without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hearthd.engine.frames import Load
from hearthd.errors import RunnerDied
from hearthd.scheduler import runner as runner_module
from tests.faults.fakerunner import fake, is_gone, started
from tests.hearthd.scheduler.stage import run

SAVING = """
    load = ready()
    note = Path(load.variant_dir)
    try:
        while not isinstance(channel.receive(), Leave):
            pass
        time.sleep(0.3)  # longer than a closed socket would let it
        note.write_text("saved")
    except Closed:
        note.write_text("closed")
"""


@pytest.mark.parametrize(
    ("prefix_dir", "save", "want"), [("/saved", True, "saved"), ("/saved", False, "closed"), ("", True, "closed")]
)
def test_a_runner_saves_its_prompts_when_asked_to_and_loaded_to(
    tmp_path: Path, prefix_dir: str, save: bool, want: str
) -> None:
    note = tmp_path / "note"
    load = Load(str(note), 64, prefix_dir=prefix_dir)

    async def scenario() -> None:
        async with started(load, command=fake(tmp_path, SAVING)) as runner:
            await runner.close(save=save)
            assert is_gone(runner.pid)

    run(scenario())
    assert note.read_text() == want


def test_a_runner_that_saves_for_too_long_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "SAVE_GRACE_S", 0.2)
    monkeypatch.setattr(runner_module, "EXIT_GRACE_S", 0.2)

    async def scenario() -> None:
        load = Load("/nowhere", 64, prefix_dir="/saved")
        async with started(load, command=fake(tmp_path, "ready()\ntime.sleep(600)")) as runner:
            await runner.close(save=True)
            assert is_gone(runner.pid)

    run(scenario())


def test_a_runner_that_saves_takes_no_more_requests(tmp_path: Path) -> None:
    async def scenario() -> None:
        load = Load(str(tmp_path / "note"), 64, prefix_dir="/saved")
        async with started(load, command=fake(tmp_path, SAVING)) as runner:
            closing = asyncio.ensure_future(runner.close(save=True))
            await asyncio.sleep(0)
            with pytest.raises(RunnerDied, match="unloaded"):
                await runner.tokenize("x")
            await closing

    run(scenario())


def test_a_real_runner_exits_by_itself_when_told_to_leave(tiny_variant: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        load = Load(str(tiny_variant), 64, prefix_dir=str(tmp_path), prefix_bytes=1 << 20)
        async with started(load) as runner:
            await runner.tokenize("hello")
            await runner.close(save=True)
            assert is_gone(runner.pid)

    run(scenario())


def test_a_trim_is_answered_with_what_was_given_back(tmp_path: Path) -> None:
    program = """
        ready()
        frame = channel.receive()
        channel.send(Trimmed(frame.id, frame.level * 1000))
        forever()
    """

    async def scenario() -> None:
        async with started(Load("/nowhere", 64), command=fake(tmp_path, program)) as runner:
            assert await runner.trim(2) == 2000

    run(scenario())


def test_a_real_runner_answers_a_trim(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with started(Load(str(tiny_variant), 64)) as runner:
            assert await runner.trim(1) >= 0
            assert await runner.tokenize("hello")

    run(scenario())
