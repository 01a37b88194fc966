"""Programs in a runner's place whose answers make no sense."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hearthd.engine.frames import Generate, Load
from hearthd.errors import RunnerDied
from hearthd.scheduler.lease import LoadOptions
from hearthd.scheduler.runner import ProcessRunner
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import StoredModel
from hearthd.store.variant import VariantInfo
from tests.faults.fakerunner import fake, is_gone, started
from tests.hearthd.scheduler.stage import run, stored, variant

LOAD = Load("/nowhere", 64)
BROKEN = "the model runner sent a broken frame"

GARBAGE = {
    "text": 'connection.sendall(b"Segmentation fault (core dumped)\\n" * 100)',
    "a length beyond all bounds": r'connection.sendall(b"\xff\xff\xff\xff")',
    "bytes that are no MessagePack": r'connection.sendall(b"\3\0\0\0\xc1\xc1\xc1")',
    "a frame of no known kind": r'connection.sendall(b"\6\0\0\0\x91\xa4Nope")',
    "a field of another type": 'connection.sendall(pack(Piece(id="one", text="x")))',
    "a second Loaded": "channel.send(LOADED)",
    "the answer to another kind of request": "channel.send(Tokens(frame.id, [1]))",
}


@pytest.mark.parametrize("act", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_answer_that_makes_no_sense_ends_its_runner_and_says_so(tmp_path: Path, act: str) -> None:
    program = f"""
        ready()
        frame = channel.receive()
        {act}
        forever()
    """

    async def scenario() -> None:
        async with started(LOAD, command=fake(tmp_path, program)) as runner:
            with pytest.raises(RunnerDied, match=BROKEN):
                async for _ in runner.generate(Generate(0, "x")):
                    pass
            await runner.wait_closed()
            assert is_gone(runner.pid)
            assert BROKEN in str(runner.reason)

    run(scenario())


@pytest.mark.parametrize(
    "act", ['connection.sendall(b"Traceback" * 100)', "channel.receive(); channel.send(Tokens(1, [1]))"]
)
def test_garbage_in_place_of_loaded_is_a_failed_load(tmp_path: Path, act: str) -> None:
    async def scenario() -> None:
        with pytest.raises(RunnerDied, match=BROKEN):
            await ProcessRunner.start(LOAD, command=fake(tmp_path, f"{act}\nforever()"))

    run(scenario())


def test_whole_frames_before_the_garbage_are_delivered(tmp_path: Path) -> None:
    program = """
        ready()
        frame = channel.receive()
        channel.send(Piece(frame.id, "so far"))
        connection.sendall(b"garbage" * 10)
        forever()
    """

    async def scenario() -> None:
        async with started(LOAD, command=fake(tmp_path, program)) as runner:
            frames = runner.generate(Generate(0, "x"))
            assert getattr(await anext(frames), "text", None) == "so far"
            with pytest.raises(RunnerDied, match=BROKEN):
                await anext(frames)

    run(scenario())


def test_a_runner_that_closes_its_socket_and_stays_is_not_called_out_of_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(LOAD, command=fake(tmp_path, "ready()\nconnection.close()\ntime.sleep(600)")) as runner:
            await runner.wait_closed()
            assert "closed its connection and did not exit" in str(runner.reason)
            assert is_gone(runner.pid)

    run(scenario())


def test_a_broken_frame_ends_only_the_requests_of_its_own_model(tmp_path: Path) -> None:
    answers = """
        ready()
        while True:
            frame = channel.receive()
            if isinstance(frame, Generate) and frame.prompt == "break":
                connection.sendall(b"garbage" * 10)
            elif isinstance(frame, Generate) and frame.prompt != "wait":
                channel.send(Done(frame.id, "stop", 1, 0, 1, 1, 1))
    """
    command = fake(tmp_path, answers)

    async def prepare(model: StoredModel) -> tuple[Path, VariantInfo]:
        return tmp_path, variant()

    async def ask(scheduler: Scheduler, name: str, prompt: str) -> int:
        async with scheduler.lease(stored(name), LoadOptions(), None) as lease:
            return len([frame async for frame in lease.runner.generate(Generate(0, prompt))])

    async def scenario() -> None:
        async def spawn(load: Load) -> ProcessRunner:
            return await ProcessRunner.start(load, command=command)

        scheduler = Scheduler(prepare, spawn=spawn)
        try:
            assert [await ask(scheduler, name, "x") for name in ("a", "b")] == [1, 1]
            asked = [("a", "x"), ("b", "wait"), ("b", "break"), ("a", "x")]
            answers = await asyncio.gather(*(ask(scheduler, *one) for one in asked), return_exceptions=True)
            assert [type(answer) for answer in answers] == [int, RunnerDied, RunnerDied, int]
            assert await ask(scheduler, "b", "x") == 1
            assert scheduler.counts().crashes == 1
        finally:
            await scheduler.stop()

    run(scenario())
