"""The checkpoint of a new model: brought into the store, quantized where that is asked for, and described."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path, PurePosixPath

import msgspec

from hearthd.errors import BadRequest, Canceled, ExportFailed
from hearthd.registry.assembly import Assembly
from hearthd.registry.exporter import inspect, quantize
from hearthd.registry.progress import Progress, Report
from hearthd.store.blobs import normal_digest
from hearthd.store.durable import temp_path
from hearthd.store.store import ModelStore
from hearthd.store.variant import SourceInfo

GGUF_MAGIC = b"GGUF"
STEP_BYTES = 32 << 20  # between two progress lines of a copy
FLOAT_TYPES = ("F16", "BF16", "F32")
NOT_FLOAT = "quantization is only supported for F16, BF16 and F32 models"


class Checkpoint(msgspec.Struct, frozen=True):
    """A GGUF file: `path` on this machine, or the blob `digest` where that is not empty."""

    path: Path
    shown: str  # what the client calls it
    info: SourceInfo
    digest: str = ""


class Checkpoints:
    """Brings checkpoints into a model in the making."""

    def __init__(self, assembly: Assembly, python: str = sys.executable) -> None:
        self._assembly = assembly
        self._blobs = assembly.store.blobs
        self._python = python

    async def of_path(self, path: Path) -> Checkpoint:
        """The file `path`, not copied yet. Raises BadRequest where it is no checkpoint."""
        return Checkpoint(path, str(path), await self._inspected(path, str(path)))

    async def of_upload(self, files: dict[str, str]) -> Checkpoint:
        """The one uploaded GGUF file. Raises BadRequest, InvalidDigest."""
        name, digest = uploaded(self._assembly.store, files)
        return await self.of_blob(digest, name)

    async def of_blob(self, digest: str, shown: str) -> Checkpoint:
        """The blob `digest`. Raises BadRequest where it is no checkpoint."""
        self._assembly.hold(digest)
        path = self._blobs.path(digest)
        return Checkpoint(path, shown, await self._inspected(path, shown), digest)

    async def stored(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as a blob."""
        if checkpoint.digest:
            return checkpoint
        digest = await self._imported(checkpoint.path)
        return msgspec.structs.replace(checkpoint, path=self._blobs.path(digest), digest=digest)

    async def quantized(self, checkpoint: Checkpoint, file_type: str) -> Checkpoint:
        """The checkpoint as `file_type` ("Q4_K_M", in any case), itself where it is that already.

        Raises BadRequest where it holds no floats or there is no such type, ExportFailed, StoreError.
        """
        have, want = checkpoint.info.file_type, file_type.upper()
        if have not in FLOAT_TYPES:
            raise BadRequest(NOT_FLOAT)
        if have == want:
            return checkpoint
        made = temp_path(self._blobs.root)
        try:
            await self._quantize(checkpoint, want, made)
            self._assembly.report(Progress("verifying conversion"))
            info = await self._inspected(made, checkpoint.shown)
            if info.file_type != want:
                raise ExportFailed(f"{checkpoint.shown} was to become {want}, but the result says {info.file_type}")
            digest = await self._adopted(made)
        finally:
            made.unlink(missing_ok=True)
        return Checkpoint(self._blobs.path(digest), checkpoint.shown, info, digest)

    async def _quantize(self, checkpoint: Checkpoint, want: str, made: Path) -> None:
        status = f"quantizing {checkpoint.info.file_type} model to {want}"
        try:
            async with aclosing(quantize(checkpoint.path, want, made, python=self._python)) as steps:
                async for step in steps:
                    if step.total and step.stage != "done":
                        self._assembly.report(Progress(status, checkpoint.digest, step.total, step.done))
        except ExportFailed as error:
            sentence = str(error).replace(str(checkpoint.path), checkpoint.shown)
            if sentence.startswith(("unsupported quantization type", NOT_FLOAT)):
                raise BadRequest(sentence) from error
            raise ExportFailed(sentence) from error

    async def _inspected(self, path: Path, shown: str) -> SourceInfo:
        try:
            return await inspect(path, python=self._python)
        except ExportFailed as error:
            raise BadRequest(str(error).replace(str(path), shown)) from error

    async def _imported(self, path: Path) -> str:
        """Copy the file into the store; its digest."""
        steps = _Steps(f"copying {path.name}", self._assembly.report)
        return await self._brought(lambda: self._blobs.import_file(path, steps.on_progress), steps)

    async def _adopted(self, made: Path) -> str:
        """Make the file, which lies in the store, a blob; its digest."""
        steps = _Steps("verifying conversion", self._assembly.report)
        return await self._brought(lambda: self._blobs.adopt(made, steps.on_progress), steps)

    async def _brought(self, work: Callable[[], str], steps: _Steps) -> str:
        """The digest that `work` gives, done in a thread, held. Cancelled, the work ends at its next step."""
        before = set(self._blobs.digests())
        future = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            digest = await asyncio.shield(future)
        except asyncio.CancelledError:
            steps.stopped = True
            await asyncio.wait([future])
            if future.exception() is None:
                self._assembly.note_new({future.result()} - before)
            raise
        self._assembly.hold(digest)
        self._assembly.note_new({digest} - before)
        return digest


class _Steps:
    """Progress of work in a thread, told to the event loop."""

    def __init__(self, status: str, report: Report) -> None:
        self._status = status
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._told_bytes = 0
        self.stopped = False

    def on_progress(self, done: int, total: int) -> None:
        """Called in the thread. Raises Canceled once stopped."""
        if self.stopped:
            raise Canceled("canceled")
        if done == total or done - self._told_bytes >= STEP_BYTES:
            self._told_bytes = done
            progress = Progress(self._status, total=total, completed=done)
            self._loop.call_soon_threadsafe(self._report, progress)


def uploaded(store: ModelStore, files: Mapping[str, str]) -> tuple[str, str]:
    """Name and digest of the one uploaded GGUF file. Raises BadRequest, InvalidDigest."""
    _check_names(files)
    if len(files) > 1 or any(name.endswith(".safetensors") for name in files):
        raise BadRequest("only a single GGUF file is supported yet; safetensors and split models come later")
    name, path = next(iter(_paths(store, files).items()))
    magic = _magic(path)
    if magic != GGUF_MAGIC:
        raise BadRequest(f"unknown type: {name} begins with {magic!r}, not with {GGUF_MAGIC!r} as a GGUF file does")
    return name, normal_digest(files[name])


def refuse_adapters(store: ModelStore, adapters: Mapping[str, str], paths: Sequence[Path]) -> None:
    """Raises BadRequest, InvalidDigest where there are any: what is wrong with them first."""
    _check_names(adapters)
    if len(adapters) + len(paths) > 1:
        raise BadRequest("only one adapter is currently supported")
    for name, path in [*_paths(store, adapters).items(), *((str(path), path) for path in paths)]:
        if _magic(path) != GGUF_MAGIC:
            raise BadRequest(f"supplied file was not in GGUF format: adapter {name}")
        raise BadRequest(f"adapter {name}: merging adapters comes with a later version")


def _check_names(files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadRequest("file path must be relative")
        normal_digest(digest)  # raises InvalidDigest


def _paths(store: ModelStore, files: Mapping[str, str]) -> dict[str, Path]:
    """Where the uploaded files are, by name."""
    for name, digest in files.items():
        if not store.blobs.has(digest):
            digest = normal_digest(digest)
            raise BadRequest(f'blob "{digest}" of {name[:200]} is not here; upload it to /api/blobs/{digest} first')
    return {name: store.blobs.path(digest) for name, digest in files.items()}


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from error
