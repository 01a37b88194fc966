"""A decoder's graph that was not made here, but attends by GroupQueryAttention: keys and values stay in one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.bound import Floats
from hearthd.engine.kvcache import KVCache
from hearthd.engine.plain import PlainSession
from hearthd.engine.providers.provider import Provider
from hearthd.store.variant import Binding, VariantInfo


class InPlaceSession(PlainSession):
    """A model and the KV cache of `num_slots` sequences. Not for use by two threads at once."""

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
        super().__init__(directory, info, binding, provider, num_ctx=num_ctx, num_batch=num_batch, num_slots=num_slots)
        self.cache = KVCache(info, num_ctx, num_slots, info.kv_dtype)
        self._bindings: dict[tuple[int, int], Any] = {}  # by first slot and how many

    def decode(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
        """Evaluates one token in each of the first slots, at the positions `pasts`; row i of `logits` is slot i's."""
        if not self.graph.binding.is_batched:
            super().decode(tokens, pasts)
            return
        output = self._run(0, np.array(tokens, np.int64)[:, None], pasts)
        self.logits[: len(tokens)] = output.reshape(len(tokens), -1)

    def swap(self, left: int, right: int) -> None:
        """Two slots trade places."""
        self.cache.swap(left, right)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, in another one too."""
        self.cache.copy(source, target, length)

    def release(self, slot: int, length: int) -> None:
        """Gives back the memory of a slot's positions from `length` on."""
        self.cache.release(slot, length)

    def slot(self, index: int) -> NDArray[np.generic]:
        """The keys and values of a slot, (num_layers, 2, num_kv_heads, L, head_dim)."""
        return self.cache.slot(index)

    def close(self) -> None:
        """Frees the weights; the session is of no use afterwards."""
        self._bindings.clear()
        super().close()

    def _step(self, slot: int, tokens: Sequence[int], past: int) -> Floats:
        output = self._run(slot, np.array([tokens], np.int64), [past])
        row: Floats = output.reshape(-1, output.shape[-1])[-1]
        return row

    def _run(self, first_slot: int, ids: NDArray[np.int64], pasts: Sequence[int]) -> NDArray[np.generic]:
        """The logits of `ids` (B, S), in the slots from `first_slot` on."""
        bound = self._binding(first_slot, len(ids))
        for name, value in self.graph.feeds(ids, pasts).items():
            bound.bind_cpu_input(name, value)
        bound.bind_output(self.graph.binding.output)
        self.graph.ort.run_with_iobinding(bound)
        logits: NDArray[np.generic] = bound.get_outputs()[-1].numpy()  # bound last
        return logits

    def _binding(self, first_slot: int, num_slots: int) -> Any:
        """A binding whose pasts and presents are these slots' buffers."""
        key = (first_slot, num_slots)
        if key not in self._bindings:
            bound = self._bindings[key] = self.graph.ort.io_binding()
            for index, state in enumerate(self.graph.binding.states):
                buffer = self.cache.of(index // 2, ("key", "value")[index % 2])[first_slot : first_slot + num_slots]
                place = (buffer.dtype, buffer.shape, buffer.ctypes.data)
                bound.bind_input(state.past, "cpu", 0, *place)
                bound.bind_output(state.present, "cpu", 0, *place)
        return self._bindings[key]
