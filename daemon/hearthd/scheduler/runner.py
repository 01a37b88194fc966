"""A loaded model as the daemon sees it: a process that answers frames."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from itertools import count
from typing import Protocol, TypeVar

from msgspec import structs

from hearthd import cage
from hearthd.cage import RUNNERS, Cell
from hearthd.engine.frames import (
    MAX_FRAME_BYTES,
    PREFIX_BYTES,
    Cancel,
    Done,
    Embed,
    Embedded,
    Frame,
    FromRunner,
    Generate,
    Leave,
    Load,
    Loaded,
    LoadFailure,
    Piece,
    Ping,
    Pong,
    Tokenize,
    Tokens,
    Trim,
    Trimmed,
    pack,
)
from hearthd.errors import HearthError, LoadFailed, LoadStalled, RunnerDied, RunnerKilled, RunnerOutgrown, TooLarge
from hearthd.scheduler.answer import LAST, Answer, Reply
from hearthd.scheduler.heartbeat import Heartbeat
from hearthd.scheduler.link import Link
from hearthd.scheduler.process import COMMAND, exit_sentence, progress, start_process

EXIT_GRACE_S = 2.0  # from the closed socket to SIGKILL
SAVE_GRACE_S = 10.0  # from Leave to the closed socket
LOOKS_PER_TIMEOUT = 4  # at the progress of a load
LONGEST_LOOK_S = 5.0

T = TypeVar("T", Tokens, Trimmed)


class Runner(Protocol):
    """One loaded model."""

    @property
    def loaded(self) -> Loaded:
        """What the runner said of itself when it was ready."""

    @property
    def alive(self) -> bool:
        """False once the runner was closed or its process ended."""

    @property
    def reason(self) -> HearthError | None:
        """Why it ended, once it has."""

    @property
    def num_answered(self) -> int:
        """Requests that it brought to their end."""

    @property
    def pid(self) -> int:
        """The process id; 0: there is no process."""

    def generate(self, request: Generate) -> AsyncGenerator[Piece | Done]:
        """Pieces and one Done. `request.id` is not looked at. Closing the generator cancels the request.

        Raises RunnerDied, or another HearthError with the status that the runner gave.
        """

    async def embed(self, request: Embed) -> Embedded:
        """A vector for each text. `request.id` is not looked at. Cancelling the task cancels the request.

        Raises RunnerDied, or another HearthError with the status that the runner gave.
        """

    async def tokenize(self, text: str) -> list[int]:
        """Ids of `text`, with BOS where the model adds it. Raises RunnerDied."""

    async def trim(self, level: int) -> int:
        """Bytes that the runner gave back: see Trim. Raises RunnerDied."""

    async def wait_closed(self) -> None:
        """Returns when the process has ended, whyever."""

    async def close(self, reason: HearthError | None = None, *, save: bool = False) -> None:
        """Ends the process and returns when it is gone; requests under way fail with `reason`.

        With `save` it gets time to write evaluated prompts to the disk, where it was loaded to do so.
        """


class ProcessRunner:
    """A Runner in a process of its own: `python -m hearthd.engine`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        cell: Cell,
        transport: asyncio.Transport,
        link: Link,
        hang_timeout_s: float,
    ) -> None:
        self._process = process
        self._cell = cell
        self._transport = transport
        self._link = link
        self._first: asyncio.Future[Loaded | LoadFailure] = asyncio.get_running_loop().create_future()
        self._loaded: Loaded | None = None
        self._saves = False
        self._answers: dict[int, Answer] = {}
        self._num_answered = 0
        self._ids = count(1)
        self._heartbeat = Heartbeat(hang_timeout_s, self._ping, self._give_up)
        self._reason: HearthError | None = None
        self._alive = True
        self._ending: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        link.connect(self._take, self._lost, self._broken)

    @classmethod
    async def start(
        cls,
        load: Load,
        *,
        timeout_s: float = 300.0,
        hang_timeout_s: float = 60.0,
        command: Sequence[str] = COMMAND,
    ) -> ProcessRunner:
        """A runner that has loaded `load`, served by `command`.

        Raises LoadFailed with the runner's sentence, LoadStalled when the load made no progress for `timeout_s`,
        RunnerDied when the process ended without a word. When cancelled, the process is gone before this returns.
        A runner that has work and says nothing for `hang_timeout_s` is killed; so is, where there can be limits, one
        that takes more memory than `load.limit_bytes`: RunnerOutgrown.
        """
        runner = await cls._spawn(
            command, cage.current().cell("runner", load.limit_bytes or None, among=RUNNERS), hang_timeout_s
        )
        try:
            await runner._load(load, timeout_s)
        except BaseException:
            await runner.close()
            raise
        return runner

    @classmethod
    async def _spawn(cls, command: Sequence[str], cell: Cell, hang_timeout_s: float) -> ProcessRunner:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        link = Link()
        with theirs:
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            try:
                process = await start_process(theirs.fileno(), command, cell)
            except BaseException as error:
                transport.abort()
                cell.close()
                if isinstance(error, OSError):
                    raise LoadFailed(f"the model runner cannot be started: {error}") from error
                raise
        return cls(process, cell, transport, link, hang_timeout_s)

    async def _load(self, load: Load, timeout_s: float) -> None:
        self._saves = bool(load.prefix_dir)
        self._send(load)
        first = await self._first_frame(timeout_s)
        if isinstance(first, LoadFailure):
            raise LoadFailed(first.message)
        self._loaded = first

    async def _first_frame(self, timeout_s: float) -> Loaded | LoadFailure:
        """The answer to Load. Raises LoadStalled once the process has stood still for `timeout_s`, RunnerDied."""
        look_s = min(LONGEST_LOOK_S, timeout_s / LOOKS_PER_TIMEOUT)
        seen, num_idle = progress(self.pid), 0
        while num_idle * look_s < timeout_s:
            done, _ = await asyncio.wait([self._first], timeout=look_s)
            if done:
                return self._first.result()
            before, seen = seen, progress(self.pid)
            num_idle = num_idle + 1 if seen == before else 0
        raise LoadStalled(f"loading the model made no progress for {timeout_s:g} s and was given up")

    @property
    def loaded(self) -> Loaded:
        assert self._loaded is not None
        return self._loaded

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def reason(self) -> HearthError | None:
        return self._reason

    @property
    def num_answered(self) -> int:
        return self._num_answered

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    # requests

    async def generate(self, request: Generate) -> AsyncGenerator[Piece | Done]:
        """As Runner.generate. A reader that lags far behind the model fails with HearthError."""
        request = structs.replace(request, id=next(self._ids))
        answer = self._open(request.id, Piece, Done)
        frame: Reply | None = None
        try:
            self._send(request)
            while not isinstance(frame, Done):
                frame = await answer.take()
                assert isinstance(frame, Piece | Done)
                yield frame
        finally:
            self._cancel(request.id)

    async def embed(self, request: Embed) -> Embedded:
        """As Runner.embed."""
        request = structs.replace(request, id=next(self._ids))
        answer = self._open(request.id, Embedded)
        try:
            self._send(request)
            frame = await answer.take()
            assert isinstance(frame, Embedded)
            return frame
        finally:
            self._cancel(request.id)

    async def tokenize(self, text: str) -> list[int]:
        """As Runner.tokenize."""
        return (await self._ask(Tokenize(next(self._ids), text), Tokens)).ids

    async def trim(self, level: int) -> int:
        """As Runner.trim."""
        return (await self._ask(Trim(next(self._ids), level), Trimmed)).released_bytes

    async def _ask(self, request: Tokenize | Trim, kind: type[T]) -> T:
        answer = self._open(request.id, kind)
        try:
            self._send(request)
            frame = await answer.take()
            assert isinstance(frame, kind)
            return frame
        finally:
            self._forget(request.id)

    def _open(self, request_id: int, *kinds: type[Reply]) -> Answer:
        if not self._alive:
            raise self._reason or RunnerDied("the model runner has ended")
        answer = self._answers[request_id] = Answer(*kinds)
        self._heartbeat.start()
        return answer

    def _forget(self, request_id: int) -> bool:
        """Whether the runner still worked on it."""
        was_open = self._answers.pop(request_id, None) is not None
        if not self._answers:
            self._heartbeat.stop()
        return was_open

    def _cancel(self, request_id: int) -> None:
        if self._forget(request_id) and self._alive:
            self._send(Cancel(request_id))

    # frames

    def _send(self, frame: Frame) -> None:
        content = pack(frame)
        if len(content) - PREFIX_BYTES > MAX_FRAME_BYTES:
            raise TooLarge(f"the prompt exceeds {MAX_FRAME_BYTES >> 20} MiB")
        self._transport.write(content)

    def _ping(self) -> None:
        self._send(Ping(next(self._ids)))

    def _take(self, frame: FromRunner) -> None:
        if isinstance(frame, Pong):
            return self._heartbeat.heard(frame.busy_ns)
        self._heartbeat.heard()
        if isinstance(frame, Loaded | LoadFailure) is self._first.done():
            self._link.refuse(f"{type(frame).__name__} at the wrong time")
        elif isinstance(frame, Loaded | LoadFailure):
            self._first.set_result(frame)
        elif answer := self._answers.get(frame.id):
            self._hand(answer, frame)

    def _hand(self, answer: Answer, frame: Reply) -> None:
        if not answer.expects(frame):
            return self._link.refuse(f"{type(frame).__name__} answers another kind of request")
        if not answer.put(frame):
            answer.fail(HearthError("the answer was not read as fast as the model wrote it"))
            return self._cancel(frame.id)
        if isinstance(frame, LAST):
            self._forget(frame.id)
            self._num_answered += isinstance(frame, Embedded) or (isinstance(frame, Done) and frame.reason != "cancel")

    # the end

    def _lost(self) -> None:
        self._end(None)

    def _broken(self, why: str) -> None:
        self._give_up(RunnerDied(f"the model runner sent a broken frame ({why}) and was ended"))

    def _give_up(self, error: RunnerDied) -> None:
        """A process that has lost its senses is not asked to leave."""
        self._kill()
        self._end(error)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    def _end(self, reason: HearthError | None, *, save: bool = False) -> asyncio.Task[None]:
        """Begins to end the runner, once."""
        if self._ending is None:
            self._alive = False
            self._heartbeat.stop()
            self._ending = asyncio.get_running_loop().create_task(self._reap(save and self._saves))
            if reason is not None:
                self._fail(reason)
        return self._ending

    def _fail(self, reason: HearthError) -> None:
        """Ends with `reason` all that is open."""
        self._reason = reason
        for request_id, answer in list(self._answers.items()):
            answer.fail(reason)
            self._forget(request_id)
        if not self._first.done():
            self._first.set_exception(reason)
            self._first.exception()  # seen, even where nobody waits any more

    async def _reap(self, save: bool) -> None:
        """Closes the socket, which ends the process, and sees it gone, by SIGKILL if need be."""
        exiting = asyncio.ensure_future(self._process.wait())
        if save:
            self._send(Leave())
            await asyncio.wait([exiting], timeout=SAVE_GRACE_S)
        self._transport.abort()
        await asyncio.wait([exiting], timeout=EXIT_GRACE_S)
        killed = not exiting.done()
        if killed:
            self._kill()
        status = await exiting
        self._cell.close()
        if self._reason is None:
            self._fail(self._death(status, by_us=killed))
        self._closed.set_result(None)

    def _death(self, status: int, *, by_us: bool) -> RunnerDied:
        if self._cell.outgrown and self._cell.limit_bytes is not None:
            return RunnerOutgrown(self._cell.limit_bytes)
        kind = RunnerKilled if status == -signal.SIGKILL and not by_us else RunnerDied
        return kind(f"the model runner ended unexpectedly ({exit_sentence(status, by_us=by_us)})")

    async def wait_closed(self) -> None:
        """As Runner.wait_closed."""
        await asyncio.shield(self._closed)

    async def close(self, reason: HearthError | None = None, *, save: bool = False) -> None:
        """As Runner.close."""
        await asyncio.shield(self._end(reason or RunnerDied("the model was unloaded"), save=save))
