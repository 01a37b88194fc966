"""The transfer process as the daemon sees it: `python -m hearthd.transfer`, started for the first job.

It leaves a few seconds after the last job, and with it what HTTP, TLS and signatures need of memory.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import msgspec

from hearthd import cage
from hearthd.errors import StoreError, TransferFailed
from hearthd.registry.shared import Shared
from hearthd.transfer import messages
from hearthd.transfer.messages import (
    Answer,
    Drop,
    Failed,
    Finished,
    HubFile,
    Job,
    Listed,
    Listing,
    Moved,
    Repository,
    Settings,
)

log = logging.getLogger(__name__)

MODULE = ("-m", "hearthd.transfer")
IDLE_S = 3.0  # without a job, after which the process is told to leave
DROP_GRACE_S = 5.0  # for a dropped job to leave its files in order

OnMoved = Callable[[Moved], None]


class Transfers:
    """Everything that moves between this device and registries."""

    def __init__(
        self, settings: Settings, *, environment: Mapping[str, str] | None = None, python: str = sys.executable
    ) -> None:
        """`environment`: variables of the process beside those of this one; secrets are no words of its command."""
        self._python = python
        self._process: _Process | None = None
        self._ids = itertools.count(1)
        self._fetches: Shared[tuple[str, str], Moved] = Shared()  # by digest and directory
        self._num_jobs = 0
        self._leaving: asyncio.TimerHandle | None = None
        self.configure(settings, environment or {})

    def configure(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """What the next process is told. One that runs leaves after the jobs that it has."""
        self._command = (self._python, *MODULE, msgspec.json.encode(settings).decode())
        self._environment = os.environ | dict(environment)
        self._is_outdated = self._process is not None
        self._let_go()

    async def manifest(self, repository: Repository, reference: str) -> bytes:
        """The manifest, byte for byte. Raises TransferFailed."""
        return await self._do(messages.FetchManifest(id=next(self._ids), repository=repository, reference=reference))

    async def listing(self, repository: Repository, revision: str) -> Listing:
        """What the repository holds on Hugging Face's hub. Raises TransferFailed."""
        data = await self._do(messages.FetchListing(id=next(self._ids), repository=repository, revision=revision))
        return msgspec.json.decode(data, type=Listing)

    async def fetch_file(
        self, repository: Repository, commit: str, file: Listed, directory: Path, on_moved: OnMoved
    ) -> str:
        """Fetch a small file of the hub into the blobs of `directory`; its digest. Raises as `fetch` does."""
        data = await self._do(
            messages.FetchFile(
                id=next(self._ids),
                repository=repository,
                file=HubFile(commit=commit, name=file.name),
                blob_id=file.blob_id,
                size=file.size,
                directory=str(directory),
            ),
            on_moved,
        )
        return data.decode("ascii", "replace")

    async def fetch(
        self, repository: Repository, digest: str, size: int, directory: Path, *, file: HubFile | None = None
    ) -> AsyncGenerator[Moved, None]:
        """Fetch the blob into `directory`; what comes is how far it is. It is there, and verified, at the end.

        Callers that want the same blob share one download; when the last one leaves it stops, and the next
        resumes it. With `file` it is that file of the hub. Raises TransferFailed, StoreError where the disk is full.
        """
        job = messages.FetchBlob(
            id=next(self._ids), repository=repository, digest=digest, size=size, directory=str(directory), file=file
        )

        async def work(publish: OnMoved) -> None:
            await self._do(job, publish)

        key = (digest, str(directory))
        joins = key in self._fetches
        try:
            async with aclosing(self._fetches.follow(key, work)) as moves:
                async for moved in moves:
                    yield moved
            return
        except TransferFailed:
            if not joins:
                raise
        # what failed was asked of somebody else's registry; this caller's own may do better
        async with aclosing(self._fetches.follow(key, work)) as moves:
            async for moved in moves:
                yield moved

    async def send(
        self, repository: Repository, digest: str, size: int, path: Path, *, state: Path, mount_from: str = ""
    ) -> AsyncGenerator[Moved, None]:
        """Upload `path` as the blob `digest` unless it is there; what comes is how far it is. Raises TransferFailed."""
        job = messages.SendBlob(
            id=next(self._ids),
            repository=repository,
            digest=digest,
            size=size,
            path=str(path),
            state=str(state),
            mount_from=mount_from,
        )

        async def work(publish: OnMoved) -> None:
            await self._do(job, publish)

        sends: Shared[str, Moved] = Shared()
        async with aclosing(sends.follow(digest, work)) as moves:
            async for moved in moves:
                yield moved

    async def send_manifest(self, repository: Repository, reference: str, data: bytes, media_type: str) -> None:
        """Upload the manifest. Raises TransferFailed."""
        await self._do(
            messages.SendManifest(
                id=next(self._ids), repository=repository, reference=reference, data=data, media_type=media_type
            )
        )

    async def make_key(self) -> str:
        """The public key of this device, which is made now where there is none. Raises TransferFailed."""
        return (await self._do(messages.MakeKey(id=next(self._ids)))).decode("ascii", "replace").strip()

    async def stop(self) -> None:
        """Give up all jobs and wait for the process to leave."""
        if self._leaving is not None:
            self._leaving.cancel()
        if self._process is not None:
            await self._process.stop()

    async def _do(self, job: Job, on_moved: OnMoved | None = None) -> bytes:
        self._num_jobs += 1
        if self._leaving is not None:
            self._leaving.cancel()
        try:
            if self._process is None or not self._process.serves:
                self._process = _Process(self._command, self._environment)
                self._is_outdated = False
            return await self._process.do(job, on_moved)
        finally:
            self._num_jobs -= 1
            if not self._num_jobs:
                idle_s = 0.0 if self._is_outdated else IDLE_S
                self._leaving = asyncio.get_running_loop().call_later(idle_s, self._let_go)

    def _let_go(self) -> None:
        if not self._num_jobs and self._process is not None:
            self._process.dismiss()
            self._process = None


class _Call:
    """A job in the process's hands."""

    __slots__ = ("end", "on_moved")

    def __init__(self, on_moved: OnMoved | None) -> None:
        self.on_moved = on_moved
        self.end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()


class _Process:
    """One transfer process."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._calls: dict[int, _Call] = {}
        self._started: asyncio.Future[asyncio.subprocess.Process] = asyncio.get_running_loop().create_future()
        self._leaving = False
        self._task = asyncio.create_task(self._run(command, environment))

    @property
    def serves(self) -> bool:
        """Whether it takes jobs."""
        return not (self._leaving or self._task.done())

    async def do(self, job: Job, on_moved: OnMoved | None) -> bytes:
        """The job's result. Cancelled, it drops the job and waits for that. Raises TransferFailed, StoreError."""
        call = self._calls[job.id] = _Call(on_moved)
        try:
            await self._write(job)
            return await asyncio.shield(call.end)
        except asyncio.CancelledError:
            await self._drop(job, call)
            raise
        finally:
            self._calls.pop(job.id, None)
            if call.end.done() and not call.end.cancelled():
                call.end.exception()  # seen

    def dismiss(self) -> None:
        """Tell it to leave."""
        self._leaving = True
        if self._started.done() and not self._started.exception():
            stdin = self._started.result().stdin
            assert stdin is not None
            stdin.close()

    async def stop(self) -> None:
        """Tell it to leave, and see that it does."""
        self.dismiss()
        await asyncio.wait([self._task], timeout=DROP_GRACE_S)
        if not self._task.done():
            if self._started.done() and not self._started.exception():
                with suppress(ProcessLookupError):
                    self._started.result().kill()
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _write(self, order: messages.Order) -> None:
        process = await asyncio.shield(self._started)
        assert process.stdin is not None
        try:
            process.stdin.write(messages.encode(order))
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            await asyncio.wait([self._task])  # fails the calls, this one among them

    async def _drop(self, job: Job, call: _Call) -> None:
        if self._started.done() and not self._started.exception() and not call.end.done():
            writing = asyncio.create_task(self._write(Drop(id=job.id)))
            both: list[asyncio.Future[Any]] = [writing, call.end]
            await asyncio.wait(both, timeout=DROP_GRACE_S)
            writing.cancel()

    async def _run(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """The life of the process: start, answers, end. Fails the calls that are left."""
        why = "the transfer process ended"
        process: asyncio.subprocess.Process | None = None
        cell = cage.current().cell("transfer")
        try:
            process = await _start(cell.wrap(command), environment)
            self._started.set_result(process)
            if self._leaving:
                self.dismiss()
            await self._listen(process)
            why = _death(await process.wait())
        except (OSError, ValueError, msgspec.DecodeError) as error:
            why = f"the transfer process cannot be used: {error}"
        finally:
            if process is not None and process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            cell.close()
            self._fail_all(why)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._take(messages.decode_answer(line))

    def _take(self, answer: Answer) -> None:
        call = self._calls.get(answer.id)
        if call is None or call.end.done():
            return
        if isinstance(answer, Moved):
            if call.on_moved is not None:
                call.on_moved(answer)
        elif isinstance(answer, Finished):
            call.end.set_result(answer.data)
        else:
            call.end.set_exception(_error(answer))

    def _fail_all(self, why: str) -> None:
        if self._calls and not self._leaving:
            log.warning("%s", why)
        failure = TransferFailed(f"{why}; try again, what was fetched is kept", "died")
        if not self._started.done():
            self._started.set_exception(failure)
            self._started.exception()  # seen
        for call in list(self._calls.values()):
            if not call.end.done():
                call.end.set_exception(failure)


async def _start(command: tuple[str, ...], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, limit=messages.MAX_LINE_BYTES, start_new_session=True, env=environment
    )


def _error(answer: Failed) -> StoreError | TransferFailed:
    if answer.reason == messages.NO_SPACE:
        return StoreError(answer.error)
    return TransferFailed(answer.error, answer.reason, answer.status)


def _death(status: int) -> str:
    if status == 0:
        return "the transfer process left"
    if status < 0:
        return f"the transfer process was ended by signal {-status}"
    return f"the transfer process ended with status {status}; the log has its last words"
