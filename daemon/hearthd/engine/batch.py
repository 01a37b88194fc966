"""Which sequence the device works on next: first come, first served, one at a time."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from typing import Protocol

from hearthd.engine.channel import Closed
from hearthd.engine.frames import Failed, Frame, Generate, Piece
from hearthd.engine.sampler import Floats, NonFiniteLogits
from hearthd.engine.sequence import RequestError, Sequence, Status
from hearthd.engine.tokens import Tokenizer, UnknownToken
from hearthd.store.variant import VariantInfo


class Device(Protocol):
    """What a batch needs of a session: one KV cache, prefill into it and single steps."""

    @property
    def num_ctx(self) -> int:
        """Positions of the KV cache."""

    @property
    def logits(self) -> Floats:
        """(V,) float32 after the last evaluated token; valid until the next call."""

    def prefill(self, tokens: Tokens[int], past: int) -> Iterator[int]:
        """Evaluates `tokens` at positions `past`.. in chunks; yields how many are done after each."""

    def decode(self, token: int, past: int) -> None:
        """Evaluates one token at position `past`."""


def num_common(left: list[int], right: list[int]) -> int:
    """The length of the longest common prefix."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(index for index in range(shorter) if left[index] != right[index])


def failure(request_id: int, error: Exception) -> Failed:
    """The frame that reports `error`; one that was not foreseen is also written to stderr."""
    if isinstance(error, RequestError | UnknownToken):
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
        self._waiting: deque[Sequence] = deque()
        self._running: Sequence | None = None
        self._cached: list[int] = []  # the tokens that the KV cache holds, by position

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
        sequence.admit(self._tokenizer, self._info, self._device.num_ctx)
        common = min(num_common(self._cached, sequence.prompt), len(sequence.prompt) - 1)
        del self._cached[common:]
        sequence.begin_prefill(self._device.prefill(sequence.prompt[common:], common), common)

    def _prefill(self, sequence: Sequence) -> None:
        num_done = next(sequence.chunks, None)
        if num_done is None:
            self._cached = sequence.prompt.copy()
            sequence.begin_decode()
            self._choose(sequence)
        else:
            self._cached = sequence.prompt[: sequence.cached_count + num_done]

    def _decode(self, sequence: Sequence) -> None:
        token = sequence.tokens[-1]
        self._device.decode(token, len(self._cached))
        self._cached.append(token)
        self._choose(sequence)

    def _choose(self, sequence: Sequence) -> None:
        text = sequence.advance(self._device.logits)
        if text:
            self._send(Piece(sequence.id, text))
        if sequence.status is Status.FINISHED:
            self._finish(sequence, sequence.reason)

    def _finish(self, sequence: Sequence, reason: str) -> None:
        sequence.finish(reason)
        self._running = None
        self._send(sequence.done())

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._running = None
        self._cached.clear()  # the failed call may have written anywhere
        self._send(failure(sequence.id, error))
