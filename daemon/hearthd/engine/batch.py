"""Which sequences the device works on next. Sequences join and leave at every step.

A step is at most one chunk of one prompt and one token of every sequence that generates. So a stream waits for one
chunk at most, whatever arrives, and a prompt for one token of each stream.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.cached import CachedTokens
from hearthd.engine.channel import Closed
from hearthd.engine.chunks import next_size
from hearthd.engine.frames import Embed, Failed, Frame, Generate
from hearthd.engine.grammar import GrammarError
from hearthd.engine.preparation import Preparation
from hearthd.engine.reading import Reading
from hearthd.engine.resuming import MIN_READ, Resumed
from hearthd.engine.sampler import Floats, NonFiniteLogits
from hearthd.engine.sequence import RequestError, Sequence, Status
from hearthd.engine.slots import Choice, Slot, choose, least, next_prefill, trades
from hearthd.engine.tokens import EmptyText, TextTooLong, Tokenizer, UnknownToken
from hearthd.engine.vectors import NonFiniteVector
from hearthd.engine.window import PromptTooLong, num_dropped
from hearthd.store.variant import VariantInfo

SHARED_CHUNK = 64  # prompt tokens evaluated at once while others generate: what a stream may have to wait for
MIN_RELEASED = 256  # positions: giving back the memory of fewer is not worth the calls


REFUSALS = (RequestError, UnknownToken, PromptTooLong, GrammarError, NonFiniteVector, TextTooLong, EmptyText)


class Device(Protocol):
    """What a batch needs of a session: a KV cache of slots, prefill into one of them, steps of the first ones."""

    @property
    def num_ctx(self) -> int:
        """Positions of a slot."""

    @property
    def num_slots(self) -> int:
        """Sequences that fit at a time."""

    @property
    def chunk(self) -> int:
        """Prompt tokens to evaluate at once where nobody else waits: a multiple of the tile."""

    @property
    def tile(self) -> int:
        """Rows of a prefill step whose results do not depend on how many such tiles it has."""

    @property
    def shifts(self) -> bool:
        """Whether `drop` works."""

    @property
    def logits(self) -> Floats:
        """(num_slots, V) float32: a row a sequence of the last step, valid until the next call."""

    def prefill(self, slot: int, tokens: Tokens[int], past: int, *, last: bool) -> None:
        """Evaluates `tokens` at positions `past`.. of a slot; where they are the last, row 0 of `logits` is theirs."""

    def read(self, slot: int, tokens: Tokens[int], past: int, num_rows: int) -> Floats:
        """As `prefill`; the states (num_rows, hidden_size) of the last tokens, valid until the next call."""

    def decode(self, tokens: Tokens[int], pasts: Tokens[int]) -> None:
        """Evaluates one token in each of the first slots, at the positions `pasts`; row i is that of slot i."""

    def drop(self, slot: int, kept: int, count: int, length: int) -> None:
        """Of `length` positions, removes `count` after the first `kept`; those behind move there."""

    def swap(self, left: int, right: int) -> None:
        """Two slots trade places."""

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, in another one too."""

    def release(self, slot: int, length: int) -> None:
        """Gives back the memory of positions from `length` on."""

    def slot(self, index: int) -> NDArray[np.generic]:
        """The keys and values of a slot, (num_layers, 2, num_kv_heads, L, head_dim)."""


class Prompts(Protocol):
    """Evaluated prompts that outlive the runner; see SavedPrefixes."""

    def longest(self, prompt: list[int], *, exact: bool, tile: int) -> Any:
        """What spares most of the evaluation, with its `num_tokens` and `num_exact`; or None."""

    def read(self, found: Any, slot: NDArray[np.generic]) -> bool:
        """Fills the slot's positions [:found.num_tokens]; False where nobody knows what they hold now."""

    def save_all(self, prompts: list[tuple[list[int], int, NDArray[np.generic]]]) -> object:
        """Keeps prompts, the last used first: tokens, how many of them are exact, and the slot that holds them."""


def failure(request_id: int, error: Exception) -> Failed:
    """The frame that reports `error`; one that was not foreseen is also written to stderr."""
    if isinstance(error, REFUSALS):
        return Failed(request_id, str(error), 400)
    if isinstance(error, NonFiniteLogits):
        return Failed(request_id, str(error))
    traceback.print_exception(error, file=sys.stderr)
    return Failed(request_id, f"the model runner failed: {type(error).__name__}: {error}")


class Batch:
    """The sequences of one runner. One thread calls it; `send` gets the frames of a step at once."""

    def __init__(
        self,
        device: Device,
        tokenizer: Tokenizer,
        info: VariantInfo,
        send: Callable[..., None],
        prompts: Prompts | None = None,
        resumed: Resumed | None = None,
    ) -> None:
        self._device = device
        self._prompts = prompts
        self._send = send
        self._frames: list[Frame] = []
        self._waiting: deque[Sequence | Reading] = deque()
        self._slots = [Slot(index, CachedTokens(device.tile)) for index in range(device.num_slots)]
        if resumed is not None:
            self._slots[0].cached.become(resumed.tokens, resumed.num_exact)
        self._num_given = 0
        self.preparation = Preparation(tokenizer, info, num_ctx=device.num_ctx, shifts=device.shifts)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and all(slot.sequence is None for slot in self._slots)

    def add(self, request: Generate | Embed) -> None:
        """Queues a request; its answer goes to `send`, now where it is refused, else in later steps."""
        try:
            self.enter(self.preparation.prepared(request))
        except Exception as error:  # whatever a request provokes ends it alone
            self._send(failure(request.id, error))

    def enter(self, sequence: Sequence | Reading) -> None:
        """Queues a prepared sequence."""
        self._waiting.append(sequence)

    def cancel(self, request_id: int) -> None:
        """Ends the request at once; one that is unknown or has ended is left alone."""
        running = (slot.sequence for slot in self._slots if slot.sequence is not None)
        for sequence in (*self._waiting, *running):
            if sequence.id == request_id:
                if sequence in self._waiting:
                    self._waiting.remove(sequence)
                if isinstance(sequence, Sequence):
                    self._finish(sequence, "cancel")
                    self._flush()
                else:
                    self._leave(sequence)
                return

    def trim(self) -> None:
        """Gives back the memory of all slots that no sequence uses."""
        for slot in self._slots:
            if slot.sequence is None and len(slot.cached):
                slot.cached.cut(0)
                self._device.release(slot.index, 0)

    def save(self) -> None:
        """Keeps what the slots hold beyond the life of this process, the last used first."""
        if self._prompts is not None:
            self._prompts.save_all(
                [
                    (slot.cached.prefix(slot.cached.num_whole), slot.cached.num_exact, self._device.slot(slot.index))
                    for slot in sorted(self._slots, key=lambda slot: -slot.used)
                ]
            )

    def step(self) -> None:
        """Gives free slots to those who wait, evaluates a chunk of a prompt, and a token of all who generate."""
        while self._waiting and (choice := self._choice(self._waiting[0])):
            self._guarded([choice.slot], self._admit, self._waiting.popleft(), choice)
        if prefilling := self._in(Status.PREFILL):
            slot = next_prefill(prefilling)
            self._guarded([slot], self._prefill, slot, prefilling)
            self._flush()
        decoding = self._in(Status.DECODE)
        if full := [slot for slot in decoding if len(slot.cached) == self._device.num_ctx]:
            for slot in full:
                self._guarded([slot], self._make_room, slot)
            decoding = self._in(Status.DECODE)
        if decoding:
            self._guarded(decoding, self._decode, decoding)
            self._flush()

    def _in(self, status: Status) -> list[Slot]:
        return [slot for slot in self._slots if slot.sequence is not None and slot.sequence.status is status]

    def _guarded(self, slots: list[Slot], work: Callable[..., None], *arguments: object) -> None:
        """Does `work`; whatever the device raises ends the sequences it was done for, not the runner."""
        try:
            work(*arguments)
        except Closed:
            raise
        except Exception as error:
            for slot in slots:
                self._fail(slot, error)
            self._flush()

    # a sequence's way

    def _choice(self, sequence: Sequence | Reading) -> Choice | None:
        reads_all = isinstance(sequence, Reading) and sequence.reads_all
        return choose(self._slots, [] if reads_all else sequence.prompt, exact=sequence.reproducible)

    def _admit(self, sequence: Sequence | Reading, choice: Choice) -> None:
        found = self._saved(sequence, choice.num_reused)
        slot = choice.slot if found is None else least([slot for slot in self._slots if slot.sequence is None])
        slot.sequence = sequence
        self._num_given += 1
        slot.used, slot.passed_over = self._num_given, 0
        length = len(slot.cached)
        if found is not None:
            self._read(slot, sequence.prompt, found)
        elif choice.source is slot:
            slot.cached.cut(choice.num_reused)
        else:
            self._copy(choice.source, slot, choice.num_reused)
        sequence.begin_prefill(len(slot.cached))
        if length - len(sequence.prompt) >= MIN_RELEASED:
            self._device.release(slot.index, len(sequence.prompt))

    def _saved(self, sequence: Sequence | Reading, num_reused: int) -> Any:
        """A saved prompt that is worth reading, or None."""
        if self._prompts is None or isinstance(sequence, Reading) or len(sequence.prompt) < num_reused + MIN_READ:
            return None
        found = self._prompts.longest(sequence.prompt, exact=sequence.reproducible, tile=self._device.tile)
        return found if found is not None and found.num_tokens >= num_reused + MIN_READ else None

    def _read(self, slot: Slot, prompt: list[int], found: Any) -> None:
        slot.cached.cut(0)
        if self._prompts is not None and self._prompts.read(found, self._device.slot(slot.index)):
            slot.cached.become(prompt[: found.num_tokens], found.num_exact)

    def _copy(self, source: Slot, slot: Slot, length: int) -> None:
        self._device.copy(source.index, slot.index, length)
        slot.cached.become(source.cached.prefix(length), source.cached.num_exact)

    def _prefill(self, slot: Slot, prefilling: list[Slot]) -> None:
        sequence, device = slot.sequence, self._device
        assert sequence is not None
        past = len(slot.cached)
        alone = not self._in(Status.DECODE)
        chunk = device.chunk if alone else min(SHARED_CHUNK, device.chunk)
        tokens = sequence.prompt[past : past + next_size(len(sequence.prompt) - past, chunk=chunk, tile=device.tile)]
        last = past + len(tokens) == len(sequence.prompt)
        if isinstance(sequence, Reading):
            sequence.take(device.read(slot.index, tokens, past, sequence.num_rows(len(tokens), last=last)), past)
        else:
            device.prefill(slot.index, tokens, past, last=last)
        slot.cached.extend(tokens)
        for other in prefilling:
            other.passed_over += len(tokens) if other is not slot else 0
        if not last:
            return
        if isinstance(sequence, Reading):
            return self._end_text(sequence)
        sequence.begin_decode()
        self._choose(slot, device.logits[0])

    def _end_text(self, reading: Reading) -> None:
        """Its next text waits behind all who wait by now."""
        reading.end_text()
        if reading.finished:
            self._frames.append(reading.answer())
        else:
            self._waiting.append(reading)
        self._leave(reading)

    def _decode(self, decoding: list[Slot]) -> None:
        device = self._device
        if any(slot.index >= len(decoding) for slot in decoding):
            for slot, other in trades(self._slots, decoding):
                device.swap(slot.index, other.index)
                slot.index, other.index = other.index, slot.index
        ready = sorted(decoding, key=lambda slot: slot.index) if len(decoding) > 1 else decoding
        tokens = [slot.sequence.tokens[-1] for slot in ready if isinstance(slot.sequence, Sequence)]
        device.decode(tokens, [len(slot.cached) for slot in ready])
        for row, slot in enumerate(ready):
            slot.cached.append(tokens[row])
            self._guarded([slot], self._choose, slot, device.logits[row])

    def _make_room(self, slot: Slot) -> None:
        """Drops the older half of a full window, but for its first tokens, as many as the request keeps."""
        kept = slot.sequence.kept if isinstance(slot.sequence, Sequence) else 0
        count = num_dropped(kept, self._device.num_ctx)
        self._device.drop(slot.index, kept, count, len(slot.cached))
        slot.cached.drop(kept, count)

    def _choose(self, slot: Slot, logits: Floats) -> None:
        sequence = slot.sequence
        assert isinstance(sequence, Sequence)
        piece = sequence.advance(logits)
        if piece is not None:
            self._frames.append(piece)
        if sequence.status is Status.FINISHED:
            self._finish(sequence, sequence.reason)

    # ends

    def _finish(self, sequence: Sequence, reason: str) -> None:
        sequence.finish(reason)
        self._leave(sequence)
        self._frames.append(sequence.done())

    def _leave(self, sequence: Sequence | Reading) -> None:
        for slot in self._slots:
            if slot.sequence is sequence:
                slot.sequence = None

    def _fail(self, slot: Slot, error: Exception) -> None:
        sequence = slot.sequence
        if sequence is not None:
            self._leave(sequence)
            self._frames.append(failure(sequence.id, error))
        slot.cached.cut(0)  # the failed call may have written anywhere

    def _flush(self) -> None:
        """Sends what the step has to say."""
        if self._frames:
            frames, self._frames = self._frames, []
            self._send(*frames)
