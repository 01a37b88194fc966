"""A loaded model as the daemon sees it: a process that answers frames."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from itertools import count
from typing import Protocol, cast

from msgspec import DecodeError, structs

from hearthd.engine.frames import (
    MAX_FRAME_BYTES,
    PREFIX_BYTES,
    Cancel,
    Done,
    Failed,
    Frame,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadFailure,
    Piece,
    Tokenize,
    Tokens,
    from_runner_decoder,
    pack,
)
from hearthd.errors import BadRequest, HearthError, LoadFailed, NotFound, RunnerDied, TooLarge

EXIT_GRACE_S = 2.0  # from the closed socket to SIGKILL
MAX_PENDING_FRAMES = 4096  # of one request, sent by the runner and not yet taken
MAX_PENDING_CHARACTERS = 1 << 20


class Runner(Protocol):
    """One loaded model."""

    @property
    def loaded(self) -> Loaded:
        """What the runner said of itself when it was ready."""

    @property
    def alive(self) -> bool:
        """False once the runner was closed or its process ended."""

    @property
    def pid(self) -> int:
        """The process id; 0: there is no process."""

    def generate(self, request: Generate) -> AsyncGenerator[Piece | Done]:
        """Pieces and one Done. `request.id` is not looked at. Closing the generator cancels the request.

        Raises RunnerDied, or another HearthError with the status that the runner gave.
        """

    async def tokenize(self, text: str) -> list[int]:
        """Ids of `text`, with BOS where the model adds it. Raises RunnerDied."""

    async def wait_closed(self) -> None:
        """Returns when the process has ended, whyever."""

    async def close(self, reason: HearthError | None = None) -> None:
        """Ends the process and returns when it is gone; requests under way fail with `reason`."""


class _Answer:
    """Frames of one request, from the socket to whoever waits for them."""

    __slots__ = ("_characters", "_error", "_frames", "_waiter")

    def __init__(self) -> None:
        self._frames: deque[FromRunner] = deque()
        self._characters = 0
        self._error: HearthError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, frame: FromRunner) -> bool:
        """Whether there was room for it."""
        if isinstance(frame, Piece):
            self._characters += len(frame.text)
        self._frames.append(frame)
        self._wake()
        return self._characters <= MAX_PENDING_CHARACTERS and len(self._frames) <= MAX_PENDING_FRAMES

    def fail(self, error: HearthError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> FromRunner:
        """The next frame; those that came before a failure come first. Raises HearthError."""
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        frame = self._frames.popleft()
        if isinstance(frame, Piece):
            self._characters -= len(frame.text)
        elif isinstance(frame, Failed):
            raise _as_error(frame)
        return frame


def _as_error(failed: Failed) -> HearthError:
    kind = {400: BadRequest, 404: NotFound, 413: TooLarge}.get(failed.status, HearthError)
    return kind(failed.message)


def exit_sentence(status: int | None) -> str:
    """How a process with this return code (negative: signal) ended, for a client."""
    if status is None:
        return "it no longer answers"
    if status == -signal.SIGKILL:
        return "killed by SIGKILL, most likely for lack of memory"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


async def _start_process(fd: int) -> asyncio.subprocess.Process:
    """The process that serves the socket `fd`. When cancelled, there is none."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "hearthd.engine", "--fd", str(fd)),
            pass_fds=[fd],
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        process = await starting
        process.kill()
        await process.wait()
        raise


class _Link(asyncio.Protocol):
    """Cuts the byte stream from a runner into frames, for those whom `connect` names."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._take: Callable[[FromRunner], None] = lambda frame: None
        self._lost: Callable[[], None] = lambda: None

    def connect(self, take: Callable[[FromRunner], None], lost: Callable[[], None]) -> None:
        """A runner says nothing before it was sent Load, so this may follow its start."""
        self._take = take
        self._lost = lost
        if self._transport is None:
            lost()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= PREFIX_BYTES:
            body = start + PREFIX_BYTES
            end = body + int.from_bytes(buffer[start:body], "little")
            if end - body > MAX_FRAME_BYTES:
                return self._abort()
            if len(buffer) < end:
                break
            try:
                self._take(from_runner_decoder.decode(bytes(buffer[body:end])))
            except DecodeError:
                return self._abort()
            start = end
        del buffer[:start]

    def _abort(self) -> None:
        """Gives up on a runner whose stream makes no sense."""
        if self._transport is not None:
            self._transport.abort()


class ProcessRunner:
    """A Runner in a process of its own: `python -m hearthd.engine`."""

    def __init__(self, process: asyncio.subprocess.Process, transport: asyncio.Transport) -> None:
        self._process = process
        self._transport = transport
        self._first: asyncio.Future[FromRunner] = asyncio.get_running_loop().create_future()
        self._loaded: Loaded | None = None
        self._answers: dict[int, _Answer] = {}
        self._ids = count(1)
        self._reason: HearthError | None = None
        self._alive = True
        self._ending: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, load: Load, *, timeout_s: float = 300.0) -> ProcessRunner:
        """A runner that has loaded `load`.

        Raises LoadFailed with the runner's sentence or when the time is over, RunnerDied when the process
        ended without a word. When cancelled, the process is gone before this returns.
        """
        runner = await cls._spawn()
        try:
            await runner._load(load, timeout_s)
        except BaseException:
            await runner.close()
            raise
        return runner

    @classmethod
    async def _spawn(cls) -> ProcessRunner:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        link = _Link()
        with theirs:
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            try:
                runner = cls(await _start_process(theirs.fileno()), transport)
            except BaseException as error:
                transport.abort()
                if isinstance(error, OSError):
                    raise LoadFailed(f"the model runner cannot be started: {error}") from error
                raise
        link.connect(runner._take, runner._lost)
        return runner

    async def _load(self, load: Load, timeout_s: float) -> None:
        self._send(load)
        try:
            async with asyncio.timeout(timeout_s):
                first = await self._first
        except TimeoutError:
            raise LoadFailed(f"the model did not load within {timeout_s:g} s") from None
        if isinstance(first, LoadFailure):
            raise LoadFailed(first.message)
        if not isinstance(first, Loaded):
            raise LoadFailed(f"the model runner answered {type(first).__name__} instead of Loaded")
        self._loaded = first

    @property
    def loaded(self) -> Loaded:
        assert self._loaded is not None
        return self._loaded

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def generate(self, request: Generate) -> AsyncGenerator[Piece | Done]:
        """As Runner.generate. A reader that lags far behind the model fails with HearthError."""
        request = structs.replace(request, id=next(self._ids))
        answer = self._open(request.id)
        frame: FromRunner | None = None
        try:
            self._send(request)
            while not isinstance(frame, Done):
                frame = await answer.take()
                assert isinstance(frame, Piece | Done)
                yield frame
        finally:
            self._close(request.id)

    async def tokenize(self, text: str) -> list[int]:
        """As Runner.tokenize."""
        request = Tokenize(next(self._ids), text)
        answer = self._open(request.id)
        try:
            self._send(request)
            frame = await answer.take()
            assert isinstance(frame, Tokens)
            return frame.ids
        finally:
            self._answers.pop(request.id, None)

    def _open(self, request_id: int) -> _Answer:
        if not self._alive:
            raise self._reason or RunnerDied("the model runner has ended")
        answer = self._answers[request_id] = _Answer()
        return answer

    def _close(self, request_id: int) -> None:
        """Forgets a request; one that was not answered to its end is cancelled."""
        if self._answers.pop(request_id, None) is not None and self._alive:
            self._send(Cancel(request_id))

    def _send(self, frame: Frame) -> None:
        content = pack(frame)
        if len(content) - PREFIX_BYTES > MAX_FRAME_BYTES:
            raise TooLarge(f"the prompt exceeds {MAX_FRAME_BYTES >> 20} MiB")
        self._transport.write(content)

    def _take(self, frame: FromRunner) -> None:
        if isinstance(frame, Loaded | LoadFailure):
            if not self._first.done():
                self._first.set_result(frame)
            return
        answer = self._answers.get(frame.id)
        if answer is None:
            return
        if not answer.put(frame):
            answer.fail(HearthError("the answer was not read as fast as the model wrote it"))
            self._close(frame.id)
        elif isinstance(frame, Done | Failed):
            del self._answers[frame.id]

    def _lost(self) -> None:
        self._end(None)

    def _end(self, reason: HearthError | None) -> asyncio.Task[None]:
        """Begins to end the runner, once."""
        if self._ending is None:
            self._alive = False
            self._reason = reason
            self._ending = asyncio.get_running_loop().create_task(self._reap())
        return self._ending

    async def _reap(self) -> None:
        """Closes the socket, which ends the process; sees it gone, by SIGKILL if need be; fails what was open."""
        self._transport.abort()
        try:
            async with asyncio.timeout(EXIT_GRACE_S):
                status = await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            status = await self._process.wait()
        error = self._reason or RunnerDied(f"the model runner ended unexpectedly ({exit_sentence(status)})")
        self._reason = error
        for answer in self._answers.values():
            answer.fail(error)
        self._answers.clear()
        if not self._first.done():
            self._first.set_exception(error)
            self._first.exception()  # seen, even where nobody waits any more
        self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """As Runner.wait_closed."""
        await asyncio.shield(self._closed)

    async def close(self, reason: HearthError | None = None) -> None:
        """As Runner.close."""
        await asyncio.shield(self._end(reason or RunnerDied("the model was unloaded")))
