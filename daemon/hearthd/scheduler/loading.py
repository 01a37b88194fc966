"""How a model gets from its files into memory: a frame for the runner, room for it, and the runner itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from msgspec import structs

from hearthd.engine.frames import Load
from hearthd.errors import LoadFailed, RunnerKilled, RunnerOutgrown
from hearthd.log import fields
from hearthd.memory import anonymous_bytes
from hearthd.scheduler import placement
from hearthd.scheduler.estimates import Estimates, limit_bytes, needs_of, size
from hearthd.scheduler.lease import LoadedModel, LoadOptions, NextPrompt, normal
from hearthd.scheduler.runner import Runner
from hearthd.store.store import StoredModel
from hearthd.store.variant import ENCODER, VariantInfo

log = logging.getLogger(__name__)

MAX_PROMPT_CHARS = 4 << 20  # of a prompt that the load is told
LEAST_NUM_CTX = 2048  # tokens: no window is made shorter than that to fit

Prepare = Callable[[StoredModel], Awaitable[tuple[Path, VariantInfo]]]
Spawn = Callable[[Load], Awaitable[Runner]]


class Residents(Protocol):
    """The loaded models, as far as a load has to do with them."""

    def resident(self) -> list[LoadedModel]:
        """The loaded models."""

    async def vacate(self, loaded: LoadedModel, why: str) -> None:
        """Lets the model finish what it does, takes no more for it, and returns when it is gone."""

    async def settle(self) -> None:
        """Returns when no unload is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDefaults:
    """What a load gets where its request does not say, and what no request says."""

    keep_alive_ns: int
    keep_alive_by_name: Mapping[str, int] = field(
        default_factory=dict
    )  # ns, of models that have their own, by short name
    num_ctx: int = 4096  # tokens
    num_threads: int = 0  # 0: the runner decides
    num_batch: int = 512
    num_parallel: int = 1  # slots of a runner
    kv_type: str = ""  # how keys and values are held; "": as the variant says
    prefix_dir: str = ""  # of saved prefixes; "": none are kept
    prefix_bytes: int = 0
    max_loaded: int = 3  # models; 0 or less: as many as memory holds
    memory_bytes: int = 0  # that all models may need together; 0: what is available
    accelerated: bool = False  # num_gpu can make a difference

    def keep_alive_of(self, model: StoredModel) -> int:
        """How long the model stays where nobody says; ns, FOREVER_NS: for ever."""
        return normal(self.keep_alive_by_name.get(model.name.short, self.keep_alive_ns))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is to be loaded, as large as it was asked for."""

    key: str
    model: StoredModel
    info: VariantInfo
    frame: Load
    any_num_ctx: bool  # nobody asked for the frame's

    def frames(self) -> list[Load]:
        """The frame and smaller ones that will do: fewer slots first, then, where nobody asked, a shorter window."""
        frames = [self.frame]
        while (smaller := self._smaller(frames[-1])) is not None:
            frames.append(smaller)
        return frames

    def _smaller(self, frame: Load) -> Load | None:
        if frame.num_slots > 1:
            return structs.replace(frame, num_slots=frame.num_slots // 2)
        if self.any_num_ctx and self.info.kind != ENCODER and frame.num_ctx > LEAST_NUM_CTX:
            return structs.replace(frame, num_ctx=max(LEAST_NUM_CTX, frame.num_ctx // 2))
        return None


@dataclass(frozen=True, slots=True)
class Underway:
    """The load in progress."""

    model: StoredModel
    num_ctx: int
    size_bytes: int


class Loader:
    """Loads one model at a time.

    `prepare` gives the directory of a runnable variant, `spawn` a runner for it, `available` the free memory in
    bytes or None, `spare` what of it is left free where a model is loaded beside others. `changed` is told when
    `underway` is another.
    """

    def __init__(
        self,
        prepare: Prepare,
        spawn: Spawn,
        available: Callable[[], int | None],
        defaults: LoadDefaults,
        spare: Callable[[], int] = lambda: 0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._prepare = prepare
        self._spawn = spawn
        self._available = available
        self._spare = spare
        self._changed = changed
        self.defaults = defaults  # of the next loads
        self._estimates = Estimates()
        self.underway: Underway | None = None

    async def load(
        self,
        key: str,
        model: StoredModel,
        options: LoadOptions,
        residents: Residents,
        prompt: NextPrompt | None = None,
    ) -> LoadedModel:
        """The model, loaded beside `residents` or in place of some. LoadFailed, RunnerDied, what `prepare` raises."""
        try:
            return await self._load(key, model, options, residents, prompt)
        finally:
            self._tell(None)

    async def _load(
        self, key: str, model: StoredModel, options: LoadOptions, residents: Residents, prompt: NextPrompt | None
    ) -> LoadedModel:
        name, defaults = model.name.short, self.defaults
        directory, info = await self._prepare(model)
        wanted = Wanted(key, model, info, self._frame(directory, options, info), options.num_ctx is None)
        frame = await self._make_room(wanted, residents)
        needed_bytes = self._needed_bytes(wanted, frame)
        told = fields(model=name, num_bytes=needed_bytes)
        log.info("load %s: %d MiB needed, num_ctx %d", name, needed_bytes >> 20, frame.num_ctx, extra=told)
        frame, runner = await self._spawn_with_room(wanted, frame, residents, await self._text(prompt))
        ready = runner.loaded
        told = fields(model=name, num_bytes=ready.size_bytes, duration_ns=ready.load_ns, pid=runner.pid or None)
        size_mib, seconds = ready.size_bytes >> 20, ready.load_ns / 1e9
        log.info("ready %s: %d MiB, %.2f s, %s", name, size_mib, seconds, ready.device, extra=told)
        self._estimates.learn(key, name, needs_of(frame, info), ready.resident_bytes)
        return LoadedModel(
            key=key,
            model=model,
            options=LoadOptions.of(frame),
            context_length=info.context_length,
            runner=runner,
            keep_alive_ns=defaults.keep_alive_of(model),
            least_num_ctx=0 if wanted.any_num_ctx else min(defaults.num_ctx, info.context_length),
            accelerated=defaults.accelerated,
        )

    def _tell(self, underway: Underway | None) -> None:
        if self.underway != underway:
            self.underway = underway
            self._changed()

    def _frame(self, directory: Path, asked: LoadOptions, info: VariantInfo) -> Load:
        """What the runner is told: what was asked for, else the defaults."""
        defaults, context_length = self.defaults, info.context_length
        asked = asked.clamped(context_length, accelerated=defaults.accelerated)
        frame = Load(
            variant_dir=str(directory),
            num_ctx=min(defaults.num_ctx, context_length) if asked.num_ctx is None else asked.num_ctx,
            num_threads=defaults.num_threads if asked.num_thread is None else asked.num_thread,
            num_batch=min(defaults.num_batch, context_length) if asked.num_batch is None else asked.num_batch,
            num_gpu=-1 if asked.num_gpu is None else asked.num_gpu,
            use_mmap=asked.use_mmap is not False,
            use_mlock=bool(asked.use_mlock),
            vocab_only=asked.vocab_only,
            num_slots=defaults.num_parallel,
            kv_type=defaults.kv_type,
            prefix_dir=defaults.prefix_dir,
            prefix_bytes=defaults.prefix_bytes,
        )
        if info.kind == ENCODER:  # texts take turns, and nothing of them is kept
            return structs.replace(frame, num_slots=1, kv_type="", prefix_dir="")
        return frame

    async def _make_room(self, wanted: Wanted, residents: Residents) -> Load:
        """What is loaded: the frame that was wanted, or the largest that can fit. Returns when there is room for it."""
        name = wanted.model.name.short
        while True:
            await residents.settle()
            models = residents.resident()
            frame, act = self._plan(wanted, models)
            self._tell(Underway(wanted.model, frame.num_ctx, self._needed_bytes(wanted, frame)))
            by_key = {loaded.key: loaded for loaded in models}
            match act:
                case placement.Refuse() if self._estimates.forgive(wanted.key):
                    told = fields(model=name)
                    log.warning("there is no room for %s with more memory than before", name, extra=told)
                case placement.Refuse(needed, available):
                    raise LoadFailed(
                        f"model requires more system memory ({size(needed)}) than is available ({size(available)})"
                    )
                case _ if wanted.key in by_key:  # with other load options
                    await residents.vacate(by_key[wanted.key], "reload")
                case placement.Evict(key) | placement.Wait(key):
                    log.info("%s needs room", name, extra=fields(model=name))
                    await residents.vacate(by_key[key], "evict")
                case placement.Load():
                    self._tell_if_smaller(wanted, frame, models)
                    return frame

    def _plan(self, wanted: Wanted, models: Sequence[LoadedModel]) -> tuple[Load, placement.Plan]:
        """The largest frame for which room can be made, else the smallest, and the next act for it."""
        loaded = [self._resident(model) for model in models]
        available, spare = self._budget(loaded), self._spare()
        for frame in wanted.frames():
            act = placement.plan(
                loaded,
                needed_bytes=self._needed_bytes(wanted, frame),
                available_bytes=available,
                max_loaded=self.defaults.max_loaded,
                spare_bytes=spare,
            )
            if not isinstance(act, placement.Refuse):
                break
        return frame, act

    def _budget(self, loaded: Sequence[placement.Resident]) -> int | None:
        return placement.budget(self._available(), loaded, memory_bytes=self.defaults.memory_bytes)

    def _reachable(self, loaded: Sequence[placement.Resident]) -> int:
        return placement.reachable(loaded, self._budget(loaded)) or 0

    def _tell_if_smaller(self, wanted: Wanted, frame: Load, models: Sequence[LoadedModel]) -> None:
        if frame == wanted.frame:
            return
        loaded = [self._resident(model) for model in models]
        log.warning(
            "%s gets num_ctx %d in %d slots instead of %d in %d, which need %s of memory where %s are available",
            *(wanted.model.name.short, frame.num_ctx, frame.num_slots, wanted.frame.num_ctx, wanted.frame.num_slots),
            *(size(self._needed_bytes(wanted, wanted.frame)), size(self._reachable(loaded))),
            extra=fields(model=wanted.model.name.short),
        )

    async def _text(self, prompt: NextPrompt | None) -> str:
        """What will be asked first, where some of it may have been saved."""
        text = await prompt() if prompt is not None and self.defaults.prefix_dir else ""
        return text if len(text) <= MAX_PROMPT_CHARS else ""

    async def _spawn_with_room(
        self, wanted: Wanted, frame: Load, residents: Residents, prompt: str
    ) -> tuple[Load, Runner]:
        """A runner. Where one is killed, all others make room and one more is tried, then the smallest frame is.

        Where one has outgrown its limit, others are not to blame: the next one gets more, if there is room.
        """
        while True:
            limit = limit_bytes(self._needed_bytes(wanted, frame))
            try:
                return frame, await self._spawn(structs.replace(frame, prompt=prompt, limit_bytes=limit))
            except RunnerOutgrown as error:
                if not self.outgrew(wanted.key, wanted.model, error):
                    raise
                frame = await self._make_room(wanted, residents)
                continue
            except RunnerKilled as error:
                others, least = residents.resident(), wanted.frames()[-1]
                if not others and frame == least:
                    raise
                remedy = "unloading all models" if others else f"num_ctx {least.num_ctx}, {least.num_slots} slots"
                told = fields(model=wanted.model.name.short)
                log.warning("%s; trying again: %s", error, remedy, extra=told)
            if not others:
                frame = least
            for loaded in others:
                await residents.vacate(loaded, "evict")

    def outgrew(self, key: str, model: StoredModel, error: RunnerOutgrown) -> bool:
        """A runner of that model has outgrown its limit. Whether the next one gets more: that is so once."""
        gets_more = self._estimates.outgrew(key, error.limit_bytes)
        if gets_more:
            told = fields(model=model.name.short, num_bytes=error.limit_bytes)
            log.warning("%s; the next one gets more", error, extra=told)
        return gets_more

    def _needed_bytes(self, wanted: Wanted, frame: Load) -> int:
        return self._estimates.total_bytes(wanted.key, needs_of(frame, wanted.info))

    def _resident(self, loaded: LoadedModel) -> placement.Resident:
        size_bytes = loaded.runner.loaded.size_bytes + self._estimates.error_bytes(loaded.key)
        return placement.Resident(
            key=loaded.key,
            name=loaded.model.name.short,
            keep_alive_ns=loaded.keep_alive_ns,
            busy=loaded.num_users > 0,
            size_bytes=size_bytes,
            held_bytes=anonymous_bytes(loaded.runner.pid) if loaded.runner.pid else size_bytes,
        )
