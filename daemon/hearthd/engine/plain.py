"""A decoder's graph that was not made here: keys and values grow by concatenation, so every step makes new arrays.

Sequences are evaluated one after the other, for such graphs tell positions of padding in ways of their own. What a
slot holds never changes, so that slots can share it.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.bound import Array, BoundGraph, Floats, cut
from hearthd.engine.kvform import KVForm
from hearthd.engine.providers.provider import Provider
from hearthd.engine.session import step_sizes
from hearthd.store.variant import Binding, VariantInfo


class PlainSession:
    """A model and what `num_slots` sequences have of keys and values. Not for use by two threads at once."""

    shifts = False  # how positions are encoded in the keys is not known

    def __init__(
        self,
        directory: Path,
        info: VariantInfo,
        binding: Binding,
        provider: Provider,
        *,
        num_ctx: int,
        num_batch: int,
        num_slots: int = 1,
    ) -> None:
        self.info = info
        self.num_ctx = num_ctx
        self.num_slots = num_slots
        self.provider = provider.name
        self.device = provider.device
        self.form = KVForm(info.kv_type, info.graph, info.kv_dtype)
        self.graph = BoundGraph(provider.open(directory / info.graph), binding)
        self.logits = np.zeros((num_slots, info.vocab_size), np.float32)
        self.chunk, self.tile = step_sizes(num_batch, provider)
        self._held: list[list[Array]] = [[] for _ in range(num_slots)]  # each as long as the slot, or longer

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, last: bool) -> None:
        """Evaluates `tokens` at positions past.. of a slot; where they are the last, `logits[0]` is the last one's."""
        row = self._step(slot, tokens, past)
        if last:
            self.logits[0] = row

    def read(self, slot: int, tokens: Sequence[int], past: int, num_rows: int) -> Floats:
        """Such graphs give no states. Raises NotImplementedError."""
        raise NotImplementedError("this graph gives logits only")

    def decode(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
        """Evaluates one token in each of the first slots, at the positions `pasts`; row i of `logits` is slot i's."""
        for slot, (token, past) in enumerate(zip(tokens, pasts, strict=True)):
            self.logits[slot] = self._step(slot, (token,), past)

    def drop(self, slot: int, kept: int, count: int, length: int) -> None:
        """Keys cannot be moved to other positions. Raises NotImplementedError."""
        raise NotImplementedError("this graph's keys cannot be moved")

    def swap(self, left: int, right: int) -> None:
        """Two slots trade places."""
        self._held[left], self._held[right] = self._held[right], self._held[left]

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, in another one too."""
        self._held[target] = self._cut(source, length)

    def release(self, slot: int, length: int) -> None:
        """Gives back the memory of a slot's positions from `length` on."""
        self._held[slot] = [array.copy() for array in self._cut(slot, length)] if length else []

    def slot(self, index: int) -> NDArray[np.generic]:
        """What a slot holds has no common shape. Raises NotImplementedError."""
        raise NotImplementedError("this graph's keys and values are not saved")

    def close(self) -> None:
        """Frees the weights; the session is of no use afterwards."""
        self._held.clear()
        del self.graph
        gc.collect()

    def _step(self, slot: int, tokens: Sequence[int], past: int) -> Floats:
        row, self._held[slot] = self.graph.step(tokens, past, self._cut(slot, past) if past else None)
        return row

    def _cut(self, slot: int, length: int) -> list[Array]:
        states = self.graph.binding.states
        return [cut(state, array, length) for state, array in zip(states, self._held[slot], strict=True)]
