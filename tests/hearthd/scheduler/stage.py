"""What scheduler tests share: models, variants, and runners that live in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from hearthd.engine.frames import Done, Embed, Embedded, Generate, Load, Loaded, Piece
from hearthd.errors import HearthError, LoadFailed
from hearthd.scheduler.lease import Lease, LoadOptions
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store import media
from hearthd.store.manifest import ImageConfig, Layer, Manifest
from hearthd.store.names import parse
from hearthd.store.store import StoredModel
from hearthd.store.variant import VariantInfo

MINUTE_NS = 60 * 1_000_000_000
CONTEXT_LENGTH = 8192
PATIENCE_S = 20.0


def run(scenario: Awaitable[None]) -> None:
    """Runs a test on the event loop that the daemon uses."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is anything, it has no event
            await asyncio.sleep(0.005)


def stored(name: str, checkpoint: str | None = None) -> StoredModel:
    """A model whose checkpoint's digest is made of `checkpoint`, by default of its name."""
    digest = "sha256:" + (checkpoint or name).encode().hex().ljust(64, "0")
    config = Layer(media_type=media.CONFIG, digest="sha256:" + "1" * 64, size=2)
    layer = Layer(media_type=media.MODEL, digest=digest, size=1000)
    return StoredModel(
        name=parse(name),
        digest=name.encode().hex().ljust(64, "0"),
        modified_at=datetime.now(UTC),
        size=1002,
        manifest=Manifest(schema_version=2, media_type=media.MANIFEST, config=config, layers=(layer,)),
        config=ImageConfig(),
    )


def variant(**fields: Any) -> VariantInfo:
    facts: dict[str, Any] = {
        "name": "cpu-int4",
        "exporter": "0",
        "source": "sha256:" + "0" * 64,
        "architecture": "llama",
        "files": {},
        "holders": {},
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 300,
        "hidden_size": 8,
        "num_layers": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
        "head_dim": 8,
        "ropes": [],
        "weight_bytes": 1 << 20,
    }
    return VariantInfo(**(facts | fields))


class ToyRunner:
    """A runner without a process. `dies` ends it as a crash would."""

    pid = 0

    def __init__(self, load: Load, size_bytes: int) -> None:
        self.load = load
        self.loaded = Loaded("toy", "nothing", load.num_ctx, size_bytes, 0, 1, load.num_slots)
        self.alive = True
        self.reason: HearthError | None = None
        self.num_answered = 0
        self.saved = False
        self.released_bytes = 0  # in answer to the next trim
        self.trims: list[int] = []
        self._gone = asyncio.Event()

    async def generate(self, request: Generate) -> AsyncGenerator[Piece | Done]:
        self.num_answered += 1
        yield Done(0, "stop", 1, 0, 1, 1, 1)

    async def embed(self, request: Embed) -> Embedded:
        self.num_answered += 1
        return Embedded(0, bytes(4 * len(request.texts)), 1, len(request.texts), 1)

    async def tokenize(self, text: str) -> list[int]:
        return [1]

    async def trim(self, level: int) -> int:
        self.trims.append(level)
        return self.released_bytes

    async def wait_closed(self) -> None:
        await self._gone.wait()

    def dies(self, reason: HearthError | None = None) -> None:
        self.alive = False
        self.reason = reason
        self._gone.set()

    async def close(self, reason: HearthError | None = None, *, save: bool = False) -> None:
        self.saved = save
        self.dies(reason)


@dataclass
class Stage:
    """A scheduler over toy runners, and all that was asked of it."""

    available_bytes: int | None = None
    model_bytes: int = 100
    info: VariantInfo = field(default_factory=variant)
    runners: list[ToyRunner] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    failures: list[HearthError] = field(default_factory=list)  # of the next loads
    gate: asyncio.Event | None = None  # loads wait for it
    aborted: list[str] = field(default_factory=list)

    def scheduler(self, **settings: Any) -> Scheduler:
        settings = {"keep_alive_ns": 5 * MINUTE_NS, "num_ctx": 2048} | settings
        return Scheduler(self._prepare, spawn=self._spawn, available=lambda: self.available_bytes, **settings)

    async def _prepare(self, model: StoredModel) -> tuple[Path, VariantInfo]:
        self.prepared.append(model.name.short)
        return Path("/variants") / model.name.short, self.info

    async def _spawn(self, load: Load) -> ToyRunner:
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.aborted.append(Path(load.variant_dir).name)
                raise
        if self.failures:
            raise self.failures.pop(0)
        runner = ToyRunner(load, self.model_bytes)
        self.runners.append(runner)
        return runner

    @property
    def living(self) -> list[str]:
        return [Path(runner.load.variant_dir).name for runner in self.runners if runner.alive]


async def touch(
    scheduler: Scheduler, model: StoredModel, options: LoadOptions | None = None, keep_alive_ns: int | None = None
) -> Lease:
    """One request from start to end."""
    async with scheduler.lease(model, options or LoadOptions(), keep_alive_ns) as lease:
        return lease


class Holder:
    """A request that stays until it is let go."""

    def __init__(
        self, scheduler: Scheduler, model: StoredModel, options: LoadOptions, keep_alive_ns: int | None
    ) -> None:
        self.lease: Lease | None = None
        self._end = asyncio.Event()
        self.task = asyncio.ensure_future(self._hold(scheduler, model, options, keep_alive_ns))

    async def _hold(
        self, scheduler: Scheduler, model: StoredModel, options: LoadOptions, keep_alive_ns: int | None
    ) -> None:
        async with AsyncExitStack() as stack:
            self.lease = await stack.enter_async_context(scheduler.lease(model, options, keep_alive_ns))
            await self._end.wait()

    async def let_go(self) -> None:
        self._end.set()
        await self.task

    async def vanish(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def hold(
    scheduler: Scheduler, model: StoredModel, options: LoadOptions | None = None, keep_alive_ns: int | None = None
) -> Holder:
    return Holder(scheduler, model, options or LoadOptions(), keep_alive_ns)


def refusal() -> LoadFailed:
    return LoadFailed("the toy does not load")
