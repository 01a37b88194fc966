"""Who uses a loaded model, and until when it stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from hearthd.engine.frames import Load
from hearthd.scheduler.runner import Runner
from hearthd.store import media
from hearthd.store.store import StoredModel

FOREVER_NS = (1 << 63) - 1
NextPrompt = Callable[[], Awaitable[str]]  # the text that a request will ask first, as far as that is known; or ""

LONGEST_TIMER_NS = 10 * 365 * 86_400 * 1_000_000_000  # ten years: longer ones run without a timer

MIN_NUM_CTX = 4


class LoadOptions(msgspec.Struct, frozen=True):
    """Load-time options of a request. None: what is loaded will do (see LoadedModel.serves), else the default."""

    num_ctx: int | None = None  # tokens
    num_batch: int | None = None  # prompt tokens evaluated at once
    num_thread: int | None = None  # 0 or less: as None
    num_gpu: int | None = None  # decoder layers on an accelerator; 0: none, less: as None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    vocab_only: bool = False

    @classmethod
    def of(cls, frame: Load) -> LoadOptions:
        """Those that a runner is told."""
        return cls(
            num_ctx=frame.num_ctx,
            num_batch=frame.num_batch,
            num_thread=frame.num_threads,
            num_gpu=frame.num_gpu,
            use_mmap=frame.use_mmap,
            use_mlock=frame.use_mlock,
            vocab_only=frame.vocab_only,
        )

    def met_by(self, other: LoadOptions) -> bool:
        """Whether a model loaded with `other` serves a request that asks for these."""
        asked = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return all(mine is None or mine == theirs for mine, theirs in asked)

    def clamped(self, context_length: int, *, accelerated: bool = False) -> LoadOptions:
        """These as a model of that context length gets them: num_ctx and num_batch in range, num_thread set or None.

        Without an accelerator num_gpu is None: wherever the layers are wanted, they come to lie on the CPU.
        """
        placed = accelerated and self.num_gpu is not None and self.num_gpu >= 0
        return msgspec.structs.replace(
            self,
            num_ctx=None if self.num_ctx is None else min(max(self.num_ctx, MIN_NUM_CTX), context_length),
            num_batch=None if self.num_batch is None else min(max(1, self.num_batch), context_length),
            num_thread=self.num_thread if self.num_thread and self.num_thread > 0 else None,
            num_gpu=self.num_gpu if placed else None,
        )


def normal(keep_alive_ns: int) -> int:
    """The duration with all that is for ever as FOREVER_NS."""
    return FOREVER_NS if keep_alive_ns < 0 else min(keep_alive_ns, FOREVER_NS)


def load_key(model: StoredModel) -> str:
    """Equal for models that can share one runner: the same checkpoint, adapters and projectors."""
    layers = model.manifest.of(media.ADAPTER, media.PROJECTOR)
    return " ".join((model.source or model.digest, *(layer.digest for layer in layers)))


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A runner, its users and its deadline. Only the scheduler changes it."""

    key: str
    model: StoredModel  # the one it was loaded for
    options: LoadOptions  # that it was loaded with, none of them None
    context_length: int  # tokens, of the model
    runner: Runner
    keep_alive_ns: int
    least_num_ctx: int = 0  # tokens that a request gets which does not say
    accelerated: bool = False  # the machine has more than its CPU
    num_users: int = 0
    leaving: bool = False  # takes no more users and goes when idle
    why: str = ""  # it leaves: a word for the log
    expires_at_ns: int | None = None  # of the epoch, while idle; None: in use or for ever
    timer: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def num_waiting(self) -> int:
        """Users that have no slot of the runner yet."""
        return max(0, self.num_users - self.runner.loaded.num_slots)

    @property
    def is_full(self) -> bool:
        """Whether one user more would have to wait for a slot."""
        return self.num_users >= self.runner.loaded.num_slots

    def serves(self, options: LoadOptions) -> bool:
        """Whether a new request with these options may use it.

        One that does not ask for a window takes what is loaded, but not one that somebody wanted shorter than usual.
        """
        usable = self.runner.alive and not self.leaving
        asked = options.clamped(self.context_length, accelerated=self.accelerated)
        is_long_enough = asked.num_ctx is not None or self.runner.loaded.num_ctx >= self.least_num_ctx
        return usable and is_long_enough and asked.met_by(self.options)

    def stop_timer(self) -> None:
        """No deadline while it is in use."""
        self.expires_at_ns = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def deadline_ns(self) -> int | None:
        """When it would go if its requests ended now, ns of the epoch; None: never."""
        if self.expires_at_ns is not None or self.keep_alive_ns > LONGEST_TIMER_NS:
            return self.expires_at_ns
        return time.time_ns() + self.keep_alive_ns


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a runner; the model stays loaded while it is held."""

    runner: Runner
    model: StoredModel
    load_ns: int  # from asking to having


@dataclass(frozen=True, slots=True)
class LoadedStatus:
    """A loaded or loading model, for people."""

    model: StoredModel
    size_bytes: int
    size_vram_bytes: int
    num_ctx: int
    expires_at_ns: int | None  # of the epoch; None: never
    loading: bool = False

    @classmethod
    def of(cls, loaded: LoadedModel) -> LoadedStatus:
        """That of a loaded model."""
        ready = loaded.runner.loaded
        return cls(loaded.model, ready.size_bytes, ready.size_vram_bytes, ready.num_ctx, loaded.deadline_ns())
