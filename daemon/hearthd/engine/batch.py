"""Which sequence the device works on next: first come, first served, one at a time."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from typing import Protocol

from hearthd.engine.cached import CachedTokens
from hearthd.engine.channel import Closed
from hearthd.engine.frames import Failed, Frame, Generate
from hearthd.engine.grammar import GrammarError, Grammars
from hearthd.engine.sampler import Floats, NonFiniteLogits
from hearthd.engine.sequence import Constraint, RequestError, Sequence, Status
from hearthd.engine.tokens import Tokenizer, UnknownToken
from hearthd.engine.window import PromptTooLong, num_dropped
from hearthd.store.variant import VariantInfo


class Device(Protocol):
    """What a batch needs of a session: one KV cache, prefill into it and single steps."""

    @property
    def num_ctx(self) -> int:
        """Positions of the KV cache."""

    @property
    def tile(self) -> int:
        """Rows of a prefill step whose results do not depend on how many such tiles it has."""

    @property
    def shifts(self) -> bool:
        """Whether `drop` works."""

    @property
    def logits(self) -> Floats:
        """(V,) float32 after the last evaluated token; valid until the next call."""

    def prefill(self, tokens: Tokens[int], past: int) -> Iterator[int]:
        """Evaluates `tokens` at positions `past`.. in steps; yields how many are done after each.

        All steps but the last are whole tiles.
        """

    def decode(self, token: int, past: int) -> None:
        """Evaluates one token at position `past`."""

    def drop(self, kept: int, count: int, length: int) -> None:
        """Of `length` positions, removes `count` after the first `kept`; those behind move there."""


def failure(request_id: int, error: Exception) -> Failed:
    """The frame that reports `error`; one that was not foreseen is also written to stderr."""
    if isinstance(error, RequestError | UnknownToken | PromptTooLong | GrammarError):
        return Failed(request_id, str(error), 400)
    if isinstance(error, NonFiniteLogits):
        return Failed(request_id, str(error))
    traceback.print_exception(error, file=sys.stderr)
    return Failed(request_id, f"the model runner failed: {type(error).__name__}: {error}")


class Batch:
    """The sequences of one runner. One thread calls it; `step` does one unit of work."""

    def __init__(self, device: Device, tokenizer: Tokenizer, info: VariantInfo, send: Callable[[Frame], None]) -> None:
        self._device = device
        self._tokenizer = tokenizer
        self._info = info
        self._send = send
        self._grammars = Grammars(tokenizer, info)
        self._waiting: deque[Sequence] = deque()
        self._running: Sequence | None = None
        self._cached = CachedTokens(device.tile)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._running is None and not self._waiting

    def add(self, request: Generate) -> None:
        """Queues a request; its answer goes to `send` in later steps."""
        self._waiting.append(Sequence(request))

    def cancel(self, request_id: int) -> None:
        """Ends the request at once; one that is unknown or has ended is left alone."""
        running = self._running
        if running is not None and running.id == request_id:
            self._finish(running, "cancel")
            return
        for sequence in self._waiting:
            if sequence.id == request_id:
                self._waiting.remove(sequence)
                sequence.finish("cancel")
                self._send(sequence.done())
                return

    def step(self) -> None:
        """Admits a sequence, evaluates one chunk of its prompt, or generates its next token."""
        if self._running is None:
            self._running = self._waiting.popleft()
        sequence = self._running
        try:
            self._step(sequence)
        except Closed:
            raise
        except Exception as error:  # whatever the device raises ends this request, not the runner
            self._fail(sequence, error)

    def _step(self, sequence: Sequence) -> None:
        if sequence.status is Status.DECODE:
            self._decode(sequence)
        elif sequence.status is Status.PREFILL:
            self._prefill(sequence)
        else:
            self._admit(sequence)

    def _admit(self, sequence: Sequence) -> None:
        device = self._device
        sequence.admit(
            self._tokenizer,
            self._info,
            num_ctx=device.num_ctx,
            shifts=device.shifts,
            constraint=self._constraint(sequence.request),
        )
        reused = self._cached.reusable(sequence.prompt, exact=sequence.reproducible)
        self._cached.cut(reused)
        sequence.begin_prefill(device.prefill(sequence.prompt[reused:], reused), reused)

    def _constraint(self, request: Generate) -> Constraint | None:
        return None if request.grammar is None else self._grammars.compile(request.grammar)

    def _prefill(self, sequence: Sequence) -> None:
        num_done = next(sequence.chunks, None)
        if num_done is None:
            sequence.begin_decode()
            self._choose(sequence)
        else:
            self._cached.extend(sequence.prompt[len(self._cached) : sequence.cached_count + num_done])

    def _decode(self, sequence: Sequence) -> None:
        if len(self._cached) == self._device.num_ctx:
            self._make_room(sequence.kept)
        token = sequence.tokens[-1]
        self._device.decode(token, len(self._cached))
        self._cached.append(token)
        self._choose(sequence)

    def _make_room(self, kept: int) -> None:
        """Drops the older half of a full window, but for its first `kept` tokens."""
        count = num_dropped(kept, self._device.num_ctx)
        self._device.drop(kept, count, len(self._cached))
        self._cached.drop(kept, count)

    def _choose(self, sequence: Sequence) -> None:
        piece = sequence.advance(self._device.logits)
        if piece is not None:
            self._send(piece)
        if sequence.status is Status.FINISHED:
            self._finish(sequence, sequence.reason)

    def _finish(self, sequence: Sequence, reason: str) -> None:
        sequence.finish(reason)
        self._running = None
        self._send(sequence.done())

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._running = None
        if sequence.status is not Status.WAITING:
            self._cached.cut(0)  # the failed call may have written anywhere
        self._send(failure(sequence.id, error))
