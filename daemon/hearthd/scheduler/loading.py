"""How a model gets from its files into memory: a frame for the runner, room for it, and the runner itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hearthd.engine.frames import Load
from hearthd.errors import LoadFailed, RunnerDied
from hearthd.scheduler import placement
from hearthd.scheduler.lease import LoadedModel, LoadOptions
from hearthd.scheduler.runner import Runner
from hearthd.store.store import StoredModel
from hearthd.store.variant import VariantInfo

log = logging.getLogger(__name__)

RUNNER_BYTES = 64 << 20  # a runner without a model: interpreter, NumPy, ONNX Runtime

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


@dataclass(frozen=True, slots=True)
class Underway:
    """The load in progress."""

    model: StoredModel
    num_ctx: int
    size_bytes: int


class Loader:
    """Loads one model at a time.

    `prepare` gives the directory of a runnable variant, `spawn` a runner for it, `available` the free memory in
    bytes or None, `spare` what of it is left free where a model is loaded beside others.
    """

    def __init__(
        self,
        prepare: Prepare,
        spawn: Spawn,
        available: Callable[[], int | None],
        defaults: LoadDefaults,
        spare: Callable[[], int] = lambda: 0,
    ) -> None:
        self._prepare = prepare
        self._spawn = spawn
        self._available = available
        self._spare = spare
        self._defaults = defaults
        self.underway: Underway | None = None

    async def load(self, key: str, model: StoredModel, options: LoadOptions, residents: Residents) -> LoadedModel:
        """The model, loaded beside `residents` or in place of some. LoadFailed, RunnerDied, what `prepare` raises."""
        try:
            return await self._load(key, model, options, residents)
        finally:
            self.underway = None

    async def _load(self, key: str, model: StoredModel, options: LoadOptions, residents: Residents) -> LoadedModel:
        name, defaults = model.name.short, self._defaults
        directory, info = await self._prepare(model)
        frame = self._frame(directory, options, info.context_length)
        needed_bytes = _needed_bytes(frame, info)
        self.underway = Underway(model, frame.num_ctx, needed_bytes)
        await self._make_room(name, needed_bytes, residents)
        log.info("load %s: %d MiB needed, num_ctx %d", name, needed_bytes >> 20, frame.num_ctx)
        runner = await self._spawn_with_room(frame, residents)
        ready = runner.loaded
        log.info("ready %s: %d MiB, %.2f s, %s", name, ready.size_bytes >> 20, ready.load_ns / 1e9, ready.device)
        return LoadedModel(
            key=key,
            model=model,
            options=LoadOptions.of(frame),
            context_length=info.context_length,
            runner=runner,
            keep_alive_ns=defaults.keep_alive_ns,
            accelerated=defaults.accelerated,
        )

    def _frame(self, directory: Path, asked: LoadOptions, context_length: int) -> Load:
        """What the runner is told: what was asked for, else the defaults."""
        defaults = self._defaults
        asked = asked.clamped(context_length, accelerated=defaults.accelerated)
        return Load(
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

    async def _spawn_with_room(self, frame: Load, residents: Residents) -> Runner:
        """A runner; where the first one dies, all other models make room and one more is tried."""
        try:
            return await self._spawn(frame)
        except RunnerDied as error:
            if not residents.resident():
                raise
            log.warning("%s; unloading all models and trying again", error)
        for loaded in residents.resident():
            await residents.vacate(loaded, "evict")
        return await self._spawn(frame)

    async def _make_room(self, name: str, needed_bytes: int, residents: Residents) -> None:
        while True:
            await residents.settle()
            models = residents.resident()
            match placement.plan(
                [_resident(loaded) for loaded in models],
                needed_bytes=needed_bytes,
                available_bytes=self._available(),
                max_loaded=self._defaults.max_loaded,
            ):
                case placement.Load():
                    return
                case placement.Evict(key) | placement.Wait(key):
                    log.info("%s needs room", name)
                    await residents.vacate(next(loaded for loaded in models if loaded.key == key), "evict")
                case placement.Refuse(needed, available):
                    raise LoadFailed(
                        f"model requires more system memory ({needed / 2**30:.1f} GiB) "
                        f"than is available ({available / 2**30:.1f} GiB)"
                    )


def _needed_bytes(frame: Load, info: VariantInfo) -> int:
    if frame.vocab_only:
        return RUNNER_BYTES
    return RUNNER_BYTES + info.weight_bytes + frame.num_slots * info.kv_bytes_per_token * frame.num_ctx


def _resident(loaded: LoadedModel) -> placement.Resident:
    return placement.Resident(
        key=loaded.key,
        name=loaded.model.name.short,
        keep_alive_ns=loaded.keep_alive_ns,
        busy=loaded.num_users > 0,
        size_bytes=loaded.runner.loaded.size_bytes,
    )
