"""How a runner opens its model, and what it says of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hearthd.engine import trimming, weights
from hearthd.engine.beside import Beside
from hearthd.engine.frames import Load, Loaded, LoadFailure
from hearthd.engine.kvcache import KVCache
from hearthd.engine.kvform import KVForm
from hearthd.engine.kvscales import form_of
from hearthd.engine.packed import packed_graph
from hearthd.engine.providers.provider import CPU, Provider, load_provider, opening
from hearthd.engine.resuming import Resumed, resume, saved_prompts
from hearthd.engine.session import Session, step_sizes, window
from hearthd.engine.tokens import Tokenizer
from hearthd.store.needs import needs
from hearthd.store.variant import ENCODER, VARIANT_FILE, Binding, VariantInfo, read_variant

if TYPE_CHECKING:
    from hearthd.engine.encoder import EncoderSession
    from hearthd.engine.plain import PlainSession
    from hearthd.engine.prefixes import SavedPrefixes

log = logging.getLogger(__name__)


def read_info(directory: Path) -> VariantInfo:
    """What the variant says of itself. Raises ValueError where it is not whole."""
    info = read_variant(directory)
    if info is None:
        raise ValueError(f"{directory / VARIANT_FILE}: the converted model is incomplete or damaged")
    return info


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts of a model."""

    info: VariantInfo
    tokenizer: Tokenizer
    session: Session | PlainSession | None  # None: only the vocabulary was wanted, or the model is an encoder
    prompts: SavedPrefixes | None = None  # where evaluated prompts outlive the process
    resumed: Resumed | None = None  # what was saved of the prompt that comes first
    encoder: EncoderSession | None = None


def open_model(load: Load) -> Opened:
    """The model, its parts opened side by side. Raises what reading and ONNX Runtime raise."""
    trimming.share_arena()
    directory = Path(load.variant_dir)
    info = read_info(directory)
    tokenizer = Beside(lambda: _open_tokenizer(directory, info))
    try:
        opened = None if load.vocab_only else _open_either(load, directory, info, tokenizer)
    finally:
        opening.set()
    place_weights(load, directory)
    return opened or Opened(info, tokenizer.result(), None)


def _open_tokenizer(directory: Path, info: VariantInfo) -> Tokenizer:
    """The tokenizer, whose library keeps the interpreter's lock while it reads; the session needs it for its start."""
    opening.wait()
    return Tokenizer(directory / info.tokenizer, info)


def _open_either(load: Load, directory: Path, info: VariantInfo, tokenizer: Beside[Tokenizer]) -> Opened:
    if info.binding is not None:
        return _open_bound(load, directory, info, info.binding, tokenizer)
    if info.kind != ENCODER:
        return _open_session(load, directory, info, tokenizer)
    from hearthd.engine.encoder import EncoderSession

    provider = load_provider(info.provider if load.num_gpu else CPU, load.num_threads)
    encoder = EncoderSession(directory, info, provider, num_batch=load.num_batch)
    return Opened(info, tokenizer.result(), None, encoder=encoder)


def _open_bound(
    load: Load, directory: Path, info: VariantInfo, binding: Binding, tokenizer: Beside[Tokenizer]
) -> Opened:
    """A graph that was not made here."""
    provider = load_provider(info.provider if load.num_gpu else CPU, load.num_threads)
    if info.kind == ENCODER:
        from hearthd.engine.plain_encoder import PlainEncoder

        encoder = PlainEncoder(directory, info, binding, provider, num_batch=load.num_batch)
        return Opened(info, tokenizer.result(), None, encoder=encoder)
    from hearthd.engine.inplace import InPlaceSession
    from hearthd.engine.plain import PlainSession

    session_class = InPlaceSession if binding.in_place else PlainSession
    num_ctx, num_slots = window(load.num_ctx, info), load.num_slots
    session = session_class(
        directory, info, binding, provider, num_ctx=num_ctx, num_batch=load.num_batch, num_slots=num_slots
    )
    return Opened(info, tokenizer.result(), session)


def _open_session(load: Load, directory: Path, info: VariantInfo, tokenizer: Beside[Tokenizer]) -> Opened:
    """The session, on packed weights where there are some and they shall stay mapped from a file."""

    def encode(text: str) -> list[int]:
        opening.set()
        return tokenizer.result().encode(text)

    provider = load_provider(info.provider if load.num_gpu else CPU, load.num_threads)
    num_ctx = window(load.num_ctx, info)
    form = form_of(load.kv_type, directory, info, encode=encode, open_graph=provider.open, num_ctx=num_ctx)
    packed = packed_graph(directory, info, form.graph) if load.use_mmap and not load.use_mlock else None
    if packed is not None:
        try:
            return _open(load, directory, info, tokenizer, provider, replace(form, graph=packed))
        except Exception as error:
            log.warning("%s: packed weights are of no use, so the variant's own are taken: %s", packed, error)
    return _open(load, directory, info, tokenizer, provider, form)


def _open(
    load: Load, directory: Path, info: VariantInfo, tokenizer: Beside[Tokenizer], provider: Provider, form: KVForm
) -> Opened:
    """The session, and beside it what is saved of the prompt that comes first."""
    num_ctx = window(load.num_ctx, info)
    cache = KVCache(info, num_ctx, load.num_slots, form.dtype)

    def resumed() -> tuple[SavedPrefixes | None, Resumed | None]:
        opening.wait()
        prompts = saved_prompts(load, info, form, provider)
        if prompts is None or not load.prompt:
            return prompts, None
        _, tile = step_sizes(load.num_batch, provider)
        return prompts, resume(prompts, load, tokenizer.result(), cache.slot(0), tile=tile)

    resuming = Beside(resumed)
    session = Session(
        directory,
        info,
        provider,
        num_ctx=num_ctx,
        num_batch=load.num_batch,
        num_slots=load.num_slots,
        form=form,
        cache=cache,
    )
    return Opened(info, tokenizer.result(), session, *resuming.result())


def place_weights(load: Load, directory: Path) -> None:
    """Does what use_mmap and use_mlock ask for; a warning where the system does not let it."""
    if not load.use_mmap:
        try:
            weights.read_in(directory)
        except OSError as error:
            log.warning("use_mmap: the weights stay mapped from their files: %s", error.strerror)
    trimming.release_freed()
    if load.use_mlock:
        leave_files(load)
        if refusal := weights.lock(directory):
            log.warning("%s", refusal)


def leave_files(load: Load) -> None:
    """Gives back the pages of files that only the load needed."""
    trimming.drop_clean_pages(Path(load.variant_dir))


def load_failure(error: Exception) -> LoadFailure:
    """The sentence for a model that does not load."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "bad_alloc" in text or "llocate memory" in text:
        return LoadFailure(f"not enough memory to load the model: {text}")
    return LoadFailure(text)


def loaded(load: Load, opened: Opened, load_ns: int) -> Loaded:
    """The answer to Load. What was read of a saved prompt is no part of what a load takes."""
    info, session = opened.info, opened.session
    if opened.encoder is not None:
        return _loaded_encoder(load, opened.encoder, load_ns)
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
    resumed_bytes = opened.resumed.num_bytes(session.slot(0)) if opened.resumed is not None else 0
    return Loaded(
        provider=session.provider,
        device=session.device,
        num_ctx=session.num_ctx,
        size_bytes=needed.total_bytes,
        size_vram_bytes=0,
        load_ns=load_ns,
        num_slots=session.num_slots,
        resident_bytes=trimming.anonymous_bytes() - resumed_bytes,
    )


def _loaded_encoder(load: Load, encoder: EncoderSession, load_ns: int) -> Loaded:
    num_ctx = window(load.num_ctx, encoder.info)
    pinned = load.use_mlock or not load.use_mmap
    needed = needs(encoder.info, num_ctx=num_ctx, num_batch=load.num_batch, pinned=pinned)
    return Loaded(
        provider=encoder.provider,
        device=encoder.device,
        num_ctx=num_ctx,
        size_bytes=needed.total_bytes,
        size_vram_bytes=0,
        load_ns=load_ns,
        resident_bytes=trimming.anonymous_bytes(),
    )
