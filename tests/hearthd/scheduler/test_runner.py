from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from hearthd.engine.frames import Done, Generate, Load, Piece, SamplingParams
from hearthd.errors import BadRequest, HearthError, LoadFailed, Overloaded, RunnerDied, RunnerKilled, TooLarge
from hearthd.scheduler import answer as answer_module
from hearthd.scheduler import runner as runner_module
from hearthd.scheduler.runner import ProcessRunner
from tests.hearthd.scheduler.stage import run, until

GREEDY = SamplingParams(temperature=0.0)
VARIED = SamplingParams(temperature=0.0, repeat_penalty=100.0, repeat_last_n=16)  # never loops, never ends
LONG = Generate(0, "hello", sampling=VARIED)


@asynccontextmanager
async def running(variant: Path, num_ctx: int = 65536) -> AsyncIterator[ProcessRunner]:
    runner = await ProcessRunner.start(Load(str(variant), num_ctx))
    try:
        yield runner
    finally:
        await runner.close()


async def answer(runner: ProcessRunner, request: Generate) -> tuple[str, Done]:
    text = ""
    async for frame in runner.generate(request):
        if isinstance(frame, Done):
            return text, frame
        text += frame.text
    raise AssertionError("no Done")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_loaded_runner_generates_and_its_process_is_gone_after_close(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            text, done = await answer(runner, Generate(0, "hello", num_predict=20, sampling=VARIED))
            assert len(text) >= 20
            assert (done.reason, done.eval_count, done.cached_count) == ("length", 20, 0)
            again, _ = await answer(runner, Generate(0, "hello", num_predict=20, sampling=VARIED))
            _, drawn = await answer(runner, Generate(0, "hello", num_predict=1))
            assert (again, drawn.cached_count) == (text, drawn.prompt_count - 1)
        assert is_gone(runner.pid)
        assert not runner.alive

    run(scenario())


def test_requests_at_once_are_each_answered_whole(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            requests = [Generate(0, f"text {n}", num_predict=50, sampling=VARIED) for n in range(5)]
            alone = [await answer(runner, request) for request in requests]
            together = await asyncio.gather(*(answer(runner, request) for request in requests))
        assert [text for text, _ in together] == [text for text, _ in alone]

    run(scenario())


def test_tokenize_is_answered_while_a_request_generates(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner, aclosing(runner.generate(LONG)) as pieces:
            await anext(pieces)
            assert await runner.tokenize("the<|im_end|>") == (await runner.tokenize("the")) + [2]
            await anext(pieces)

    run(scenario())


def test_a_reader_that_leaves_frees_the_runner_for_the_next_request(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            async with aclosing(runner.generate(LONG)) as pieces:
                await anext(pieces)
            _, done = await answer(runner, Generate(0, "hello", num_predict=1, sampling=GREEDY))
            assert done.reason == "length"

    run(scenario())


def test_a_cancelled_task_frees_the_runner_too(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            reading = asyncio.ensure_future(answer(runner, LONG))
            await asyncio.sleep(0.2)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
            await answer(runner, Generate(0, "hello", num_predict=1, sampling=GREEDY))

    run(scenario())


def test_a_refused_request_raises_with_its_status_and_the_runner_lives_on(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant, num_ctx=16) as runner:
            with pytest.raises(BadRequest, match="longer than the context length"):
                await answer(runner, Generate(0, "x " * 100, truncate=False))
            with pytest.raises(BadRequest, match="token id 1000000"):
                await answer(runner, Generate(0, "x", context=[1_000_000]))
            await answer(runner, Generate(0, "hello", num_predict=1))

    run(scenario())


def test_a_prompt_beyond_the_frame_bound_is_refused_before_it_is_sent(
    tiny_variant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            monkeypatch.setattr(runner_module, "MAX_FRAME_BYTES", 1000)
            with pytest.raises(TooLarge):
                await answer(runner, Generate(0, "x" * 2000))
            await answer(runner, Generate(0, "hello", num_predict=1))

    run(scenario())


def test_a_reader_that_lags_far_behind_is_failed_and_the_others_are_served(
    tiny_variant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(answer_module, "MAX_PENDING_FRAMES", 50)
        async with running(tiny_variant) as runner, aclosing(runner.generate(LONG)) as slow:
            await anext(slow)
            await answer(runner, Generate(0, "hello", num_predict=1))  # served only once the slow one is cancelled
            with pytest.raises(HearthError, match="not read as fast"):
                async for _ in slow:
                    pass

    run(scenario())


def test_a_killed_runner_fails_every_open_request_with_the_reason(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            readers = [asyncio.ensure_future(answer(runner, LONG)) for _ in range(3)]
            await asyncio.sleep(0.1)
            os.kill(runner.pid, signal.SIGKILL)
            answers = await asyncio.gather(*readers, return_exceptions=True)
            assert {type(error) for error in answers} == {RunnerKilled}
            assert "SIGKILL" in str(answers[0])
            await runner.wait_closed()
            assert not runner.alive
            with pytest.raises(RunnerDied):
                await answer(runner, LONG)
            with pytest.raises(RunnerDied):
                await runner.tokenize("x")

    run(scenario())


def test_a_runner_that_ignores_the_closed_socket_is_killed(tiny_variant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(runner_module, "EXIT_GRACE_S", 0.2)
        async with running(tiny_variant) as runner:
            os.kill(runner.pid, signal.SIGSTOP)
            await runner.close()
            assert is_gone(runner.pid)

    run(scenario())


def test_closing_fails_open_requests_with_the_given_reason(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with running(tiny_variant) as runner:
            reader = asyncio.ensure_future(answer(runner, LONG))
            await asyncio.sleep(0.1)
            await runner.close(Overloaded("the server is stopping"))
            with pytest.raises(Overloaded, match="stopping"):
                await reader

    run(scenario())


def test_a_directory_without_a_variant_does_not_load(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(LoadFailed, match=r"variant\.json: the converted model is incomplete or damaged"):
            await ProcessRunner.start(Load(str(tmp_path), 64))

    run(scenario())


@pytest.mark.parametrize("damaged", ["model.onnx", "tokenizer.json"])
def test_a_variant_with_a_damaged_file_does_not_load(tiny_variant: Path, tmp_path: Path, damaged: str) -> None:
    copied = tmp_path / "variant"
    shutil.copytree(tiny_variant, copied)
    content = (copied / damaged).read_bytes()
    (copied / damaged).write_bytes(b"\xff" * len(content))

    async def scenario() -> None:
        with pytest.raises(LoadFailed):
            await ProcessRunner.start(Load(str(copied), 64))

    run(scenario())


def test_a_cancelled_load_leaves_no_process(tiny_variant: Path) -> None:
    async def scenario() -> None:
        loading = asyncio.ensure_future(ProcessRunner.start(Load(str(tiny_variant), 64)))
        await until(child_runners)
        loading.cancel()
        await asyncio.wait([loading])
        assert loading.cancelled()

    run(scenario())
    assert not child_runners()


def child_runners() -> list[int]:
    """Processes of this one that are runners."""
    children = Path("/proc/self/task").glob("*/children")
    pids = [pid for path in children for pid in path.read_text().split()]
    return [int(pid) for pid in pids if b"hearthd.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_pieces_are_whole_characters(tiny_variant: Path) -> None:
    async def scenario() -> None:
        wild = SamplingParams(temperature=1000.0, top_k=0, top_p=1.0, seed=3)  # bytes at random
        async with running(tiny_variant) as runner:
            texts = [
                frame.text
                async for frame in runner.generate(Generate(0, "x", num_predict=300, sampling=wild))
                if isinstance(frame, Piece)
            ]
        assert texts
        assert all(text.encode().decode() == text != "" for text in texts)

    run(scenario())
