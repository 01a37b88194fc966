"""The checkpoint of a new model: brought into the store, merged with an adapter and quantized where that is asked for,
and described."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path

import msgspec

from hearthd import repository
from hearthd.errors import BadRequest, Canceled, ExportFailed, StoreError
from hearthd.registry.assembly import Assembly
from hearthd.registry.exporter import ExportProgress, inspect, merge, quantize
from hearthd.registry.progress import Progress, Report
from hearthd.registry.uploads import Files, Upload, laid_out_files
from hearthd.registry.variants import place_of, without_directory
from hearthd.store import media
from hearthd.store.durable import temp_path
from hearthd.store.files import Index, IndexedFile, encode_index, read_index
from hearthd.store.manifest import Layer
from hearthd.store.variant import SourceInfo
from hearthd.threads import in_thread

STEP_BYTES = 32 << 20  # between two progress lines of a copy
FLOAT_TYPES = ("F16", "BF16", "F32")
NOT_FLOAT = "quantization is only supported for F16, BF16 and F32 models"
_OF_CLIENT = ("unsupported quantization type", NOT_FLOAT)  # refusals that are the request's own fault


class Checkpoint(msgspec.Struct, frozen=True):
    """A GGUF file or a directory of files: on this machine, or in the store where `digest` is not empty."""

    shown: str  # what the client calls it
    info: SourceInfo
    path: Path | None = None  # on this machine
    files: Files = {}  # by relative name, of a checkpoint of several files that is not stored as one yet
    digest: str = ""  # of the blob: the GGUF file, or the index


class Checkpoints:
    """Brings checkpoints into a model in the making."""

    def __init__(self, assembly: Assembly, python: str = sys.executable) -> None:
        self._assembly = assembly
        self._store = assembly.store
        self._blobs = assembly.store.blobs
        self._python = python

    # where it comes from

    async def of_path(self, path: Path) -> Checkpoint:
        """The file or directory `path`, not copied yet. Raises BadRequest where it is no checkpoint."""
        if files := await in_thread(lambda: _files_of(path)):
            return await self._of_files(files, str(path), path)
        return Checkpoint(str(path), await self._inspected(nullcontext(str(path)), str(path)), path=path)

    async def of_upload(self, upload: Upload) -> Checkpoint:
        """What was uploaded. Raises BadRequest, StoreError."""
        self._assembly.hold(*upload.digests)
        if upload.only_gguf:
            return await self.of_blob(upload.only_gguf, upload.shown)
        return await self._of_files(upload.paths(self._blobs), upload.shown)

    async def _of_files(self, files: Files, shown: str, path: Path | None = None) -> Checkpoint:
        if repository.format_of(files) == repository.GGUF and len(files) == 1:
            only = next(iter(files.values()))
            return Checkpoint(shown, await self._inspected(nullcontext(str(only)), shown), path=only)
        place = laid_out_files(files, self._store.variants_root)
        return Checkpoint(shown, await self._inspected(place, shown), path=path, files=files)

    async def of_blob(self, digest: str, shown: str) -> Checkpoint:
        """The blob `digest`, a GGUF file or an index. Raises BadRequest where it is no checkpoint, StoreError."""
        self._assembly.hold(digest)
        return Checkpoint(shown, await self._inspected(place_of(self._store, digest)(), shown), digest=digest)

    # what becomes of it

    async def stored(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint in the store. Raises StoreError, BadRequest for files whose names cannot be kept."""
        if checkpoint.digest:
            return checkpoint
        if not checkpoint.files:
            assert checkpoint.path is not None
            return msgspec.structs.replace(checkpoint, digest=await self._imported(checkpoint.path))
        listed = {name: await self._indexed(path) for name, path in checkpoint.files.items()}
        index = Index(format=repository.format_of(listed), files=listed)
        try:
            data = encode_index(index)
        except StoreError as error:
            raise BadRequest(str(error)) from error
        layer = await self._assembly.put(media.INDEX, data)
        return msgspec.structs.replace(checkpoint, digest=layer.digest)

    def layers(self, digest: str) -> list[Layer]:
        """The layers that a stored checkpoint is, what stands for it first."""
        index = read_index(self._blobs, digest)
        if index is None:
            return [self._assembly.layer(media.MODEL, digest)]
        files = [Layer(media.FILE, file.digest, file.size, name=name) for name, file in index.files.items()]
        return [self._assembly.layer(media.INDEX, digest), *files]

    async def merged(self, checkpoint: Checkpoint, adapter: Files, name: str) -> Checkpoint:
        """The checkpoint as a GGUF file with the adapter merged into it.

        Raises BadRequest where the adapter is none, or another model's, ExportFailed, StoreError.
        """
        only = next(iter(adapter.values())) if len(adapter) == 1 else None
        place = laid_out_files(adapter, self._store.variants_root) if only is None else nullcontext(str(only))
        with self._place(checkpoint) as path, place as adapter_path:

            def steps(made: Path) -> AsyncGenerator[ExportProgress, None]:
                return merge(path, adapter_path, made, python=self._python)

            shown = {path: checkpoint.shown, adapter_path: name}
            try:
                return await self._made(checkpoint, f"merging adapter {name}", steps, shown)
            except ExportFailed as error:
                if str(error).startswith(name):  # it is the adapter's fault, and so the request's
                    raise BadRequest(str(error)) from error
                raise

    async def quantized(self, checkpoint: Checkpoint, file_type: str) -> Checkpoint:
        """The checkpoint as a GGUF file of `file_type` ("Q4_K_M", in any case), itself where it is that already.

        Raises BadRequest where it holds no floats or there is no such type, ExportFailed, StoreError.
        """
        have, want = checkpoint.info.file_type, file_type.upper()
        if have not in FLOAT_TYPES:
            raise BadRequest(NOT_FLOAT)
        if have == want:
            return checkpoint
        with self._place(checkpoint) as path:

            def steps(made: Path) -> AsyncGenerator[ExportProgress, None]:
                return quantize(path, want, made, python=self._python)

            result = await self._made(checkpoint, f"quantizing {have} model to {want}", steps, {path: checkpoint.shown})
        if result.info.file_type != want:
            raise ExportFailed(f"{checkpoint.shown} was to become {want}, but the result says {result.info.file_type}")
        return result

    async def _made(
        self,
        checkpoint: Checkpoint,
        status: str,
        steps: Callable[[Path], AsyncGenerator[ExportProgress, None]],
        shown: dict[str, str],
    ) -> Checkpoint:
        """The GGUF file that `steps` makes of it, as a blob. `shown`: what the client calls the paths in errors."""
        made = temp_path(self._blobs.root)
        try:
            await self._run(steps(made), status, checkpoint.digest, shown)
            self._assembly.report(Progress("verifying conversion"))
            info = await self._inspected(nullcontext(str(made)), checkpoint.shown)
            digest = await self._adopted(made)
        finally:
            made.unlink(missing_ok=True)
        return Checkpoint(checkpoint.shown, info, digest=digest)

    async def _run(
        self, steps: AsyncGenerator[ExportProgress, None], status: str, digest: str, shown: dict[str, str]
    ) -> None:
        try:
            async with aclosing(steps):
                async for step in steps:
                    if step.total and step.stage != "done":
                        self._assembly.report(Progress(status, digest, step.total, step.done))
        except ExportFailed as error:
            sentence = self._as_shown(str(error), shown)
            if sentence.startswith(_OF_CLIENT):
                raise BadRequest(sentence) from error
            raise ExportFailed(sentence) from error

    def _place(self, checkpoint: Checkpoint) -> AbstractContextManager[str]:
        if checkpoint.digest:
            return place_of(self._store, checkpoint.digest)()
        if checkpoint.files:
            return laid_out_files(checkpoint.files, self._store.variants_root)
        return nullcontext(str(checkpoint.path))

    async def _inspected(self, place: AbstractContextManager[str], shown: str) -> SourceInfo:
        with place as path:
            try:
                return await inspect(path, python=self._python)
            except ExportFailed as error:
                raise BadRequest(self._as_shown(str(error), {path: shown})) from error

    def _as_shown(self, sentence: str, shown: dict[str, str]) -> str:
        for path, name in shown.items():
            sentence = sentence.replace(path, name)
        return without_directory(self._store, sentence)

    # bytes

    async def _indexed(self, path: Path) -> IndexedFile:
        if path.parent == self._blobs.root:  # uploaded
            digest = "sha256:" + path.name.removeprefix("sha256")[1:]
        else:
            digest = await self._imported(path)
        return IndexedFile(digest, self._blobs.size(digest))

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


def _files_of(path: Path) -> Files:
    """The checkpoint's files where `path` is a directory, else none. Raises BadRequest."""
    try:
        return repository.checkpoint_files(path) if path.is_dir() else {}
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from error


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
