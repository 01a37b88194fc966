"""The converter as a child process: `python -m hearth_export`.

    convert <source> --digest sha256:<hex> --out <variant root>
    quantize <source> --to <file type> --out <file>
    merge <source> --adapter <adapter> --out <file>
    inspect <source> [--verbose]

It works in `.tmp-<pid>-*` in the variant root, or beside the file, and publishes by rename. `convert` prints one
JSON object a line: `{"stage": "...", "done": 1, "total": 2}`, and at last `{"result": {"variant": "<name>"}}` or
`{"error": "<sentence>"}`; `quantize` and `merge` too, their result naming the file. `inspect` prints a SourceInfo, or
`{"error": "<sentence>"}`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from pathlib import Path

import msgspec

from hearthd import cage
from hearthd.cage import Cell
from hearthd.errors import ExportFailed
from hearthd.goals import BYTES
from hearthd.registry.shared import Publish, Shared
from hearthd.store.durable import TEMP_PREFIX
from hearthd.store.removal import clear_abandoned, remove_file
from hearthd.store.variant import SourceInfo, read_variant
from hearthd.threads import in_thread

log = logging.getLogger(__name__)

MODULE = ("-m", "hearth_export")
MAX_LINE_BYTES = 64 << 20  # a verbose SourceInfo holds a whole vocabulary
STDERR_BYTES = 8 << 10
TERM_GRACE_S = 2.0


# where a checkpoint is, file or directory, for as long as the block runs
Place = Callable[[], AbstractContextManager[str]]


def at(path: Path) -> Place:
    """The place of what lies at `path` anyhow."""
    return lambda: nullcontext(str(path))


class ExportProgress(msgspec.Struct, frozen=True):
    """How far a conversion is. The last one has stage "done"; a conversion's names the variant."""

    stage: str
    done: int = 0  # bytes
    total: int = 0  # bytes
    variant: str = ""  # name of the directory below the variant root


class _Result(msgspec.Struct, frozen=True):
    variant: str = ""
    num_bytes: int = 0


class _Line(msgspec.Struct, frozen=True):
    stage: str = ""
    done: int = 0
    total: int = 0
    error: str = ""
    result: _Result | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: str


_line_decoder = msgspec.json.Decoder(_Line)
_failure_decoder = msgspec.json.Decoder(_Failure)
_source_decoder = msgspec.json.Decoder(SourceInfo)

_conversions: Shared[Path, ExportProgress] = Shared()  # by variant root


async def convert(
    source: Place, digest: str, variant_root: Path, goal: str = BYTES, *, python: str = sys.executable
) -> AsyncGenerator[ExportProgress, None]:
    """Convert the checkpoint `source` for `goal`, one of goals.GOALS.

    What comes is its progress, the last one with `variant` set.

    Callers that ask for the same `variant_root` at the same time share one conversion, which ends when the
    last of them leaves. A caller that is slow to take progress misses the older ones.
    Raises ExportFailed with the converter's sentence, or with how it died.
    """

    async def work(publish: Publish[ExportProgress]) -> None:
        with source() as path:
            words = ("convert", path, "--digest", digest, "--goal", goal, "--out", str(variant_root))
            child = await _Child.start(python, *words)
            try:
                await _relay(child, variant_root, publish)
            finally:
                await child.kill()
                clear_abandoned(variant_root)

    async with aclosing(_conversions.follow(variant_root, work)) as steps:
        async for progress in steps:
            yield progress


async def _relay(child: _Child, variant_root: Path, publish: Publish[ExportProgress]) -> None:
    last = None
    while line := await child.read_line():
        last = _decode_line(line)
        if last.stage:
            publish(ExportProgress(last.stage, last.done, last.total))
    variant = (await child.result(last)).variant
    if read_variant(variant_root / variant) is None:
        raise ExportFailed(f"the converter published no valid variant {variant!r}")
    publish(ExportProgress("done", variant=variant))


async def quantize(
    source: str | Path, to: str, out: Path, *, python: str = sys.executable
) -> AsyncGenerator[ExportProgress, None]:
    """Write the checkpoint at `source`, which holds floats, as a GGUF file of type `to` ("Q4_K_M") to `out`; what comes
    is as of `written`."""
    async with aclosing(_written(out, ("quantize", str(source), f"--to={to}"), python)) as steps:
        async for step in steps:
            yield step


async def merge(
    source: str, adapter: str, out: Path, *, python: str = sys.executable
) -> AsyncGenerator[ExportProgress, None]:
    """Write the checkpoint at `source` with the adapter merged into it to the GGUF file `out`; what comes is as of
    `written`."""
    async with aclosing(_written(out, ("merge", source, "--adapter", adapter), python)) as steps:
        async for step in steps:
            yield step


async def _written(out: Path, arguments: tuple[str, ...], python: str) -> AsyncGenerator[ExportProgress, None]:
    """Progress in bytes of the source, the last one with stage "done" and the bytes of `out`.

    A caller that leaves before that (`aclosing`, or cancelled) ends the converter, and nothing half-made stays; nor
    does `out`, unless it was there before. Raises ExportFailed with the converter's sentence, or with how it died.
    """
    was_there = await in_thread(out.exists)
    child = await _Child.start(python, *arguments, "--out", str(out))
    result = last = None
    try:
        while line := await child.read_line():
            last = _decode_line(line)
            if last.stage:
                yield ExportProgress(last.stage, last.done, last.total)
        result = await child.result(last)
    finally:
        await child.kill()
        if result is None:
            for path in out.parent.glob(f"{TEMP_PREFIX}{child.pid}-*"):
                remove_file(path)
            if not was_there:
                remove_file(out)
    yield ExportProgress("done", result.num_bytes, result.num_bytes)


async def inspect(source: str | Path, verbose: bool = False, *, python: str = sys.executable) -> SourceInfo:
    """What the checkpoint `source` says of itself; `verbose`: long arrays in full.

    Raises ExportFailed with the converter's sentence, or with how it died.
    """
    child = await _Child.start(python, "inspect", str(source), *(["--verbose"] if verbose else []))
    try:
        output = await child.read_all()
        status = await child.wait()
    finally:
        await child.kill()
    if status != 0:
        raise _failure(output) or child.death(status)
    try:
        return _source_decoder.decode(output)
    except msgspec.DecodeError as error:
        raise ExportFailed(f"the converter's description of {source} cannot be read: {error}") from error


def _failure(output: bytes) -> ExportFailed | None:
    lines = output.split(b"\n")
    last = next((line for line in reversed(lines) if line.strip()), b"")
    try:
        return ExportFailed(_failure_decoder.decode(last).error)
    except msgspec.DecodeError:
        return None


def _decode_line(line: bytes) -> _Line:
    try:
        return _line_decoder.decode(line)
    except msgspec.DecodeError as error:
        raise ExportFailed(f"the converter printed what it should not: {line[:200]!r}") from error


class _Child:
    """A converter process, leader of its own process group, in a cell."""

    def __init__(self, process: asyncio.subprocess.Process, cell: Cell) -> None:
        self._process = process
        self._cell = cell
        self._stderr = b""
        self._stderr_task = asyncio.create_task(self._keep_stderr())

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, python: str, *arguments: str) -> _Child:
        """Start `python -m hearth_export` with these arguments. Raises ExportFailed where it cannot."""
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        cell = cage.current().cell("converter")
        try:
            process = await asyncio.create_subprocess_exec(
                *cell.wrap((python, *MODULE, *arguments)),
                stdin=null,
                stdout=pipe,
                stderr=pipe,
                limit=MAX_LINE_BYTES,
                start_new_session=True,
            )
        except BaseException as error:
            cell.close()
            if isinstance(error, OSError):
                raise ExportFailed(f"the converter cannot be started: {python}: {error.strerror}") from error
            raise
        return cls(process, cell)

    async def read_line(self) -> bytes:
        """The next line of output; b"" at the end."""
        assert self._process.stdout is not None
        try:
            return await self._process.stdout.readline()
        except ValueError as error:
            raise ExportFailed("the converter printed a line that is too long") from error

    async def read_all(self) -> bytes:
        """All output. Raises ExportFailed where it exceeds MAX_LINE_BYTES."""
        assert self._process.stdout is not None
        output = bytearray()
        while block := await self._process.stdout.read(1 << 16):
            output += block
            if len(output) > MAX_LINE_BYTES:
                raise ExportFailed("the converter printed more than a description of a model can be")
        return bytes(output)

    async def result(self, last: _Line | None) -> _Result:
        """What it made, `last` being the last line that it printed. Waits for its end.

        Raises ExportFailed with its sentence, or with how it died.
        """
        status = await self.wait()
        if last is not None and last.error:
            raise ExportFailed(last.error)
        if status != 0 or last is None or last.result is None:
            raise self.death(status)
        return last.result

    async def wait(self) -> int:
        """The exit status, negative for a signal; its last words go to the log."""
        status = await self._process.wait()
        await self._stderr_task
        if words := self._stderr.decode("utf-8", "replace").strip():
            log.log(logging.WARNING if status else logging.DEBUG, "converter: %s", words)
        return status

    async def kill(self) -> None:
        """End the process and its children: SIGTERM, then SIGKILL. Nothing if it has ended."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            ending = asyncio.ensure_future(self._process.wait())
            # not asyncio.timeout: Debian 12's (Python 3.11.2) never fires in a task that is being cancelled
            await asyncio.wait([ending], timeout=TERM_GRACE_S)
            if not ending.done():
                self._signal(signal.SIGKILL)
            await ending
        self._cell.close()
        self._stderr_task.cancel()

    def death(self, status: int) -> ExportFailed:
        """How it ended without a last word, as an error."""
        if status == -signal.SIGKILL:
            return ExportFailed("the converter was killed, most likely for lack of memory")
        if status < 0:
            return ExportFailed(f"the converter was ended by signal {-status} ({signal.strsignal(-status)})")
        return ExportFailed(f"the converter ended with status {status} and no result; the log has its last words")

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _keep_stderr(self) -> None:
        assert self._process.stderr is not None
        while block := await self._process.stderr.read(4096):
            self._stderr = (self._stderr + block)[-STDERR_BYTES:]
