"""Runners that stand still, while they serve and while they load."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.engine.frames import Generate, Load, Piece, SamplingParams
from hearthd.errors import LoadFailed, LoadStalled, RunnerDied
from hearthd.scheduler import runner as runner_module
from hearthd.scheduler.runner import ProcessRunner
from tests.e2e.daemon import running
from tests.faults.fakerunner import fake, is_gone, is_stopped, started
from tests.hearthd.scheduler.stage import run, until

LONG = Generate(0, "hello", sampling=SamplingParams(temperature=0.0, repeat_penalty=100.0, repeat_last_n=16))
LOAD = Load("/nowhere", 64)


def test_a_stopped_runner_is_killed_and_each_of_its_requests_is_told_why(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with started(Load(str(tiny_variant), 65536), hang_timeout_s=0.4) as runner:
            async with aclosing(runner.generate(LONG)) as pieces:
                assert isinstance(await anext(pieces), Piece)
                os.kill(runner.pid, signal.SIGSTOP)
                await until(lambda: is_stopped(runner.pid))
                other = asyncio.ensure_future(runner.tokenize("x"))
                with pytest.raises(RunnerDied, match=r"no longer answered \(no heartbeat for 0\.4 s\) and was ended"):
                    async for _ in pieces:
                        pass
                with pytest.raises(RunnerDied, match="no heartbeat"):
                    await other
            await runner.wait_closed()
            assert is_gone(runner.pid)

    run(scenario())


def test_a_runner_that_answers_pings_works_for_longer_than_the_timeout(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with started(Load(str(tiny_variant), 65536), hang_timeout_s=1.0) as runner:
            end = asyncio.get_running_loop().time() + 1.5
            async with aclosing(runner.generate(LONG)) as pieces:
                async for _ in pieces:
                    if asyncio.get_running_loop().time() > end:
                        break
            assert runner.alive

    run(scenario())


def test_an_idle_runner_is_left_alone_even_if_it_stands_still(tiny_variant: Path) -> None:
    async def scenario() -> None:
        async with started(Load(str(tiny_variant), 64), hang_timeout_s=1.0) as runner:
            await runner.tokenize("x")
            os.kill(runner.pid, signal.SIGSTOP)
            await asyncio.sleep(1.5)
            assert runner.alive
            os.kill(runner.pid, signal.SIGCONT)

    run(scenario())


PINGED = """
    ready()
    while True:
        frame = channel.receive()
        if isinstance(frame, Ping):
            print("ping", file=open(sys.argv[-3], "a"))
            channel.send(Pong(frame.id, {busy_ns}))
        elif isinstance(frame, Tokenize) and frame.text == "end":
            channel.send(Tokens(frame.id, [1]))
"""


def test_a_step_that_takes_five_timeouts_ends_the_runner_though_it_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        command = [*fake(tmp_path, PINGED.format(busy_ns=600_000_000)), str(tmp_path / "pings")]
        async with started(LOAD, hang_timeout_s=0.1, command=command) as runner:
            with pytest.raises(RunnerDied, match=r"did not finish one step within 0\.5 s and was ended"):
                await runner.tokenize("x")

    run(scenario())


def test_pings_come_while_a_request_is_open_and_end_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        pings = tmp_path / "pings"
        command = [*fake(tmp_path, PINGED.format(busy_ns=0)), str(pings)]
        async with started(LOAD, hang_timeout_s=1.0, command=command) as runner:
            await asyncio.sleep(0.5)
            assert not pings.exists()
            waiting = asyncio.ensure_future(runner.tokenize("x"))
            await until(lambda: pings.exists() and pings.read_text().count("ping") > 3)
            waiting.cancel()
            await asyncio.wait([waiting])
            await runner.tokenize("end")  # answered behind all that was sent before
            before = pings.read_text()
            await asyncio.sleep(0.3)
            await runner.tokenize("end")
            assert pings.read_text() == before

    run(scenario())


def test_over_http_a_stopped_runner_ends_its_stream_with_the_reason_and_the_next_request_loads_again(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    endless = {
        "num_predict": 1_000_000,
        "temperature": 50.0,
        "top_k": 20,
        "top_p": 1.0,
    }  # otherwise it soon repeats itself
    asked = {"model": "tiny", "prompt": "hello", "options": endless}
    with running(tmp_path, HEARTH_HANG_TIMEOUT="1s", HEARTH_CONTEXT_LENGTH="8192") as daemon:
        daemon.create("tiny", tiny_gguf)
        with daemon.http.stream("POST", "/api/generate", json=asked) as answer:
            lines = answer.iter_lines()
            next(lines)
            (pid,) = daemon.runner_pids()
            os.kill(pid, signal.SIGSTOP)
            last = list(lines)[-1]
        assert "no longer answered (no heartbeat for 1 s)" in last
        again = daemon.post("/api/generate", model="tiny", prompt="x", stream=False, options={"num_predict": 2})
        assert again.json()["eval_count"] == 2
        assert pid not in daemon.runner_pids()
        assert "Traceback" not in daemon.log


# loading


def test_a_load_that_stands_still_fails_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "EXIT_GRACE_S", 0.1)
    pid_file = tmp_path / "pid"
    program = f"""
        open({str(pid_file)!r}, "w").write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    """

    async def scenario() -> None:
        with pytest.raises(LoadStalled, match=r"made no progress for 0\.8 s"):
            await ProcessRunner.start(LOAD, timeout_s=0.8, command=fake(tmp_path, program))
        assert is_gone(int(pid_file.read_text()))

    run(scenario())


@pytest.mark.parametrize(
    "work",
    [
        'open("/dev/zero", "rb", buffering=0).read(4096)',  # reads
        "pages.append(bytearray(1 << 20))",  # touches memory
    ],
)
def test_a_load_goes_on_for_as_long_as_it_makes_progress(tmp_path: Path, work: str) -> None:
    program = f"""
        pages = []
        for _ in range(50):
            time.sleep(0.03)
            {work}
        ready()
        forever()
    """

    async def scenario() -> None:
        async with started(LOAD, timeout_s=1.0, command=fake(tmp_path, program)) as runner:
            assert runner.loaded.provider == "fake"

    run(scenario())


def test_a_runner_that_cannot_be_started_is_a_failed_load(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(LoadFailed, match="cannot be started"):
            await ProcessRunner.start(LOAD, command=[str(tmp_path / "nothing")])

    run(scenario())
