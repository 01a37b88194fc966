"""How a runner opens its model, and what it says of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from hearthd.engine import trimming, weights
from hearthd.engine.frames import Load, Loaded, LoadFailure
from hearthd.engine.kvform import KVForm
from hearthd.engine.kvscales import form_of
from hearthd.engine.packed import packed_graph
from hearthd.engine.providers.provider import CPU, load_provider, opening
from hearthd.engine.session import Session, open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.store.needs import needs
from hearthd.store.variant import VARIANT_FILE, VariantInfo, read_variant

log = logging.getLogger(__name__)
T = TypeVar("T")


class Beside(Generic[T]):
    """A call that runs in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What the call returned, once it has. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]


def read_info(directory: Path) -> VariantInfo:
    """What the variant says of itself. Raises ValueError where it is not whole."""
    info = read_variant(directory)
    if info is None:
        raise ValueError(f"{directory / VARIANT_FILE}: the converted model is incomplete or damaged")
    return info


def open_model(load: Load) -> tuple[VariantInfo, Tokenizer, Session | None]:
    """The parts of a model, without a session where only the vocabulary is wanted.

    Tokenizer and session are opened side by side. Raises what reading and ONNX Runtime raise.
    """
    trimming.share_arena()
    directory = Path(load.variant_dir)
    info = read_info(directory)
    tokenizer = Beside(lambda: _open_tokenizer(directory, info))
    try:
        session = None if load.vocab_only else _open_session(load, directory, info, tokenizer)
    finally:
        opening.set()
    opened = tokenizer.result()
    place_weights(load, directory)
    return info, opened, session


def _open_tokenizer(directory: Path, info: VariantInfo) -> Tokenizer:
    """The tokenizer, whose library keeps the interpreter's lock while it reads; the session needs it for its start."""
    opening.wait()
    return Tokenizer(directory / info.tokenizer, info)


def _open_session(load: Load, directory: Path, info: VariantInfo, tokenizer: Beside[Tokenizer]) -> Session:
    """The session, on packed weights where there are some and they shall stay mapped from a file."""

    def encode(text: str) -> list[int]:
        opening.set()
        return tokenizer.result().encode(text)

    form = form_of(
        load.kv_type,
        directory,
        info,
        encode=encode,
        open_graph=lambda graph: load_provider(info.provider if load.num_gpu else CPU, load.num_threads).open(graph),
    )
    packed = packed_graph(directory, info, form.graph) if load.use_mmap and not load.use_mlock else None
    if packed is not None:
        try:
            return _session(load, directory, info, replace(form, graph=packed))
        except Exception as error:
            log.warning("%s: packed weights are of no use, so the variant's own are taken: %s", packed, error)
    return _session(load, directory, info, form)


def _session(load: Load, directory: Path, info: VariantInfo, form: KVForm) -> Session:
    return open_session(
        directory,
        info,
        num_ctx=load.num_ctx,
        num_threads=load.num_threads,
        num_batch=load.num_batch,
        num_gpu=load.num_gpu,
        num_slots=load.num_slots,
        form=form,
    )


def place_weights(load: Load, directory: Path) -> None:
    """Does what use_mmap and use_mlock ask for, and gives back what only the load needed.

    A warning where the system does not let it.
    """
    if not load.use_mmap:
        try:
            weights.read_in(directory)
        except OSError as error:
            log.warning("use_mmap: the weights stay mapped from their files: %s", error.strerror)
    trimming.release_freed()
    trimming.drop_clean_pages(directory)
    if load.use_mlock and (refusal := weights.lock(directory)):
        log.warning("%s", refusal)


def load_failure(error: Exception) -> LoadFailure:
    """The sentence for a model that does not load."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "bad_alloc" in text or "llocate memory" in text:
        return LoadFailure(f"not enough memory to load the model: {text}")
    return LoadFailure(text)


def loaded(load: Load, info: VariantInfo, session: Session | None, load_ns: int) -> Loaded:
    """The answer to Load."""
    if session is None:
        needed = needs(info, num_ctx=load.num_ctx, vocab_only=True)
        size_bytes, resident_bytes = needed.total_bytes, trimming.anonymous_bytes()
        return Loaded(CPU, "vocabulary only", load.num_ctx, size_bytes, 0, load_ns, 1, resident_bytes)
    needed = needs(
        info,
        num_ctx=session.num_ctx,
        num_slots=session.num_slots,
        kv_type=session.form.name,
        num_batch=load.num_batch,
        pinned=load.use_mlock or not load.use_mmap,
    )
    return Loaded(
        provider=session.provider,
        device=session.device,
        num_ctx=session.num_ctx,
        size_bytes=needed.total_bytes,
        size_vram_bytes=0,
        load_ns=load_ns,
        num_slots=session.num_slots,
        resident_bytes=trimming.anonymous_bytes(),
    )
