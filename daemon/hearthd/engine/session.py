"""A variant in ONNX Runtime: evaluates tokens at positions, in place in the KV cache."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hearthd.engine.chunks import next_size
from hearthd.engine.kvcache import KVCache
from hearthd.engine.kvform import KVForm, float_form
from hearthd.engine.providers.provider import CPU, Provider, load_provider
from hearthd.engine.rotations import inv_freq_of, rotary_tables
from hearthd.engine.shift import drop_positions
from hearthd.store import variant
from hearthd.store.variant import VariantInfo

KEPT_PREFILLS = 8  # bound steps of prompts
ONLY_BOUND = ort.RunOptions()  # nothing is computed that no bound output needs: no logits for who wants states
ONLY_BOUND.only_execute_path_to_fetches = True
TILE = 32  # rows: a multiple of what kernels of x86 and Arm take at once


class Step:
    """Bound inputs and outputs for `num_tokens` tokens at once in each of `num_slots` slots from `first_slot` on.

    The last `num_rows` of all tokens give logits, or where `states` has a place for them, what the head would multiply.
    """

    def __init__(
        self,
        session: Session,
        first_slot: int,
        num_slots: int,
        num_tokens: int,
        num_rows: int,
        states: NDArray[np.float32] | None = None,
    ) -> None:
        self._session = session.ort
        self._ids = np.zeros((num_slots, num_tokens), np.int64)
        self._seqlens_k = np.zeros(num_slots, np.int32)
        self._total = np.zeros(1, np.int32)
        self._rows = np.arange(num_slots * num_tokens - num_rows, num_slots * num_tokens, dtype=np.int64)
        # plain stores: behind a step of the model each call of NumPy's takes 4 to 12 microseconds
        self._ids_view, self._seqlens_view = self._ids.reshape(-1).data, self._seqlens_k.data
        self._total_view = self._total.data
        self.binding = session.ort.io_binding()
        self._bind_inputs(session)
        self._bind_cache(session, first_slot, num_slots)
        if states is None:
            self._options = None
            _bind(self.binding.bind_output, variant.LOGITS, session.logits[:num_rows])
        else:
            self._options = ONLY_BOUND
            _bind(self.binding.bind_output, variant.HIDDEN, states[:num_rows])

    def run(self, tokens: Sequence[Sequence[int]], pasts: Sequence[int]) -> None:
        """Evaluates the `tokens` of each slot at positions past, past + 1 .."""
        self._ids[:] = tokens
        self._run(pasts, self._ids.shape[1])

    def run_ones(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
        """As `run`, for one token a slot."""
        view = self._ids_view
        for slot, token in enumerate(tokens):
            view[slot] = token
        self._run(pasts, 1)

    def _run(self, pasts: Sequence[int], num_tokens: int) -> None:
        view = self._seqlens_view
        for slot, past in enumerate(pasts):
            view[slot] = past + num_tokens - 1
        self._total_view[0] = max(pasts) + num_tokens
        self._session.run_with_iobinding(self.binding, self._options)

    def _bind_inputs(self, session: Session) -> None:
        inputs: dict[str, NDArray[np.generic]] = {
            variant.INPUT_IDS: self._ids,
            variant.SEQLENS_K: self._seqlens_k,
            variant.TOTAL_LENGTH: self._total,
            variant.ROWS: self._rows,
            **session.rotations,
            **session.form.inputs,
        }
        for name, array in inputs.items():
            _bind(self.binding.bind_input, name, array)

    def _bind_cache(self, session: Session, first_slot: int, num_slots: int) -> None:
        for layer in range(session.info.num_layers):
            for kind in ("key", "value"):
                buffer = session.cache.of(layer, kind)[first_slot : first_slot + num_slots]
                _bind(self.binding.bind_input, variant.past_name(layer, kind), buffer)
                _bind(self.binding.bind_output, variant.present_name(layer, kind), buffer)


class Session:
    """A model and the KV cache of `num_slots` sequences. Not for use by two threads at once."""

    def __init__(
        self,
        directory: Path,
        info: VariantInfo,
        provider: Provider,
        *,
        num_ctx: int,
        num_batch: int,
        num_slots: int = 1,
        form: KVForm | None = None,
        cache: KVCache | None = None,
    ) -> None:
        self.info = info
        self.num_ctx = num_ctx
        self.num_slots = num_slots
        self.vocab_size = info.vocab_size
        self.provider = provider.name
        self.device = provider.device
        self.form = form or float_form(info)
        self.ort = provider.open(directory / self.form.graph)
        self.cache = cache or KVCache(info, num_ctx, num_slots, self.form.dtype)
        self.rotations = rotary_tables(info, num_ctx)
        self.logits = np.zeros((num_slots, info.vocab_size), np.float32)  # of the sequences of the last step
        self.chunk, self.tile = step_sizes(num_batch, provider)
        self._prefills: dict[tuple[int, int, int, bool], Step] = {}
        self._states: NDArray[np.float32] | None = None  # of who wants them instead of logits
        self._decodes: dict[int, Step] = {1: Step(self, 0, 1, 1, 1)}

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, last: bool) -> None:
        """Evaluates `tokens` at positions past.. of a slot; where they are the last, `logits[0]` is the last one's."""
        self._prefill_step(slot, len(tokens), int(last)).run((tokens,), (past,))

    def read(self, slot: int, tokens: Sequence[int], past: int, num_rows: int) -> NDArray[np.float32]:
        """As `prefill`; the states (num_rows, hidden_size) of the last of `tokens`, valid until the next call."""
        if self._states is None:
            self._states = np.zeros((self.chunk, self.info.hidden_size), np.float32)
        self._prefill_step(slot, len(tokens), num_rows, self._states).run((tokens,), (past,))
        return self._states[:num_rows]

    def evaluate(self, tokens: Sequence[int], past: int = 0, slot: int = 0) -> NDArray[np.float32]:
        """All of `tokens` at positions past.. of a slot, in steps; the logits (V,) of the last, until the next call."""
        done = 0
        while done < len(tokens):
            size = next_size(len(tokens) - done, chunk=self.chunk, tile=self.tile)
            chunk, start = tokens[done : done + size], past + done
            done += size
            self.prefill(slot, chunk, start, last=done == len(tokens))
        row: NDArray[np.float32] = self.logits[0]
        return row

    def decode(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
        """Evaluates one token in each of the first slots, at the positions `pasts`.

        Row i of `logits` is that of slot i, valid until the next call.
        """
        count = len(tokens)
        step = self._decodes.get(count)
        if step is None:
            step = self._decodes[count] = Step(self, 0, count, 1, count)
        step.run_ones(tokens, pasts)

    @property
    def shifts(self) -> bool:
        """Whether `drop` works: keys of a float type and int8 codes can be turned."""
        return self.cache.values.dtype.kind in "fi"

    def drop(self, slot: int, kept: int, count: int, length: int) -> None:
        """Of `length` positions, removes `count` after the first `kept`; those behind move there."""
        for layer in range(self.info.num_layers):
            keys, values = self.cache.of(layer, "key")[slot], self.cache.of(layer, "value")[slot]
            inv_freq = inv_freq_of(self.info, layer, self.num_ctx)
            drop_positions(keys, values, inv_freq, kept=kept, count=count, length=length)

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
        self._prefills.clear()
        self._decodes.clear()
        del self.ort
        gc.collect()

    def _prefill_step(
        self, slot: int, num_tokens: int, num_rows: int, states: NDArray[np.float32] | None = None
    ) -> Step:
        """A bound step; the shapes used last are kept, for binding one costs half a millisecond."""
        key = (slot, num_tokens, num_rows, states is not None)
        step = self._prefills.pop(key, None) or Step(self, slot, 1, num_tokens, num_rows, states)
        self._prefills[key] = step
        if len(self._prefills) > KEPT_PREFILLS:
            del self._prefills[next(iter(self._prefills))]
        return step


def open_session(
    variant_dir: Path,
    info: VariantInfo,
    *,
    num_ctx: int,
    num_threads: int = 0,
    num_batch: int = 512,
    num_gpu: int = -1,
    num_slots: int = 1,
    form: KVForm | None = None,
) -> Session:
    """The variant's session on its own provider, or with `num_gpu` 0 on the CPU.

    `num_ctx` tokens a slot are clamped to what the model was trained for.

    Raises what ONNX Runtime raises for a damaged graph, and MemoryError or OSError where memory is short.
    """
    provider = load_provider(info.provider if num_gpu else CPU, num_threads)
    num_ctx = window(num_ctx, info)
    return Session(variant_dir, info, provider, num_ctx=num_ctx, num_batch=num_batch, num_slots=num_slots, form=form)


def window(num_ctx: int, info: VariantInfo) -> int:
    """So many tokens, but a token at least and no more than the model was trained for."""
    return max(1, min(num_ctx, info.context_length))


def step_sizes(num_batch: int, provider: Provider) -> tuple[int, int]:
    """Prompt tokens to evaluate at once, and rows of a tile, of which that is a multiple."""
    chunk = max(1, min(num_batch, provider.prefill_chunk))
    tile = min(TILE, chunk)
    return chunk - chunk % tile, tile


def _bind(bind: object, name: str, array: NDArray[np.generic]) -> None:
    """Binds an array's own memory, which must outlive the binding."""
    assert callable(bind)
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
