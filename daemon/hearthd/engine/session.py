"""A variant in ONNX Runtime: evaluates tokens at positions, in place in the KV cache."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.kvcache import KVCache
from hearthd.engine.providers.provider import CPU, Provider, load_provider
from hearthd.engine.shift import drop_positions
from hearthd.store import variant
from hearthd.store.variant import VariantInfo

RUNNER_BYTES = 60 << 20  # interpreter, numpy, ONNX Runtime and tokenizer, before any weight
KEPT_BINDINGS = 4
TILE = 32  # rows: a multiple of what kernels of x86 and Arm take at once


class Step:
    """Bound inputs and outputs for `num_tokens` tokens at once; `num_rows` of them give logits."""

    def __init__(self, session: Session, num_tokens: int, num_rows: int) -> None:
        self._session = session.ort
        self._ids = np.zeros((1, num_tokens), np.int64)
        self._seqlens_k = np.zeros(1, np.int32)
        self._total = np.zeros(1, np.int32)
        self._rows = np.arange(num_tokens - num_rows, num_tokens, dtype=np.int64)
        self.binding = session.ort.io_binding()
        self._bind_inputs(session)
        self._bind_cache(session)
        _bind(self.binding.bind_output, variant.LOGITS, session.logits[np.newaxis][:num_rows])

    def run(self, tokens: Sequence[int], past: int) -> None:
        """Evaluates `tokens` at positions past, past + 1 .."""
        self._ids[0] = tokens
        self._total[0] = past + len(tokens)
        self._seqlens_k[0] = past + len(tokens) - 1
        self._session.run_with_iobinding(self.binding)

    def _bind_inputs(self, session: Session) -> None:
        for name, array in (
            (variant.INPUT_IDS, self._ids),
            (variant.SEQLENS_K, self._seqlens_k),
            (variant.TOTAL_LENGTH, self._total),
            (variant.ROWS, self._rows),
            (variant.COS, session.cos),
            (variant.SIN, session.sin),
        ):
            _bind(self.binding.bind_input, name, array)

    def _bind_cache(self, session: Session) -> None:
        for layer in range(session.info.num_layers):
            for kind in ("key", "value"):
                buffer = session.cache.of(layer, kind)
                _bind(self.binding.bind_input, variant.past_name(layer, kind), buffer)
                _bind(self.binding.bind_output, variant.present_name(layer, kind), buffer)


class Session:
    """One sequence's worth of a model. Not for use by two threads at once."""

    def __init__(self, graph: Path, info: VariantInfo, provider: Provider, *, num_ctx: int, num_batch: int) -> None:
        self.info = info
        self.num_ctx = num_ctx
        self.vocab_size = info.vocab_size
        self.provider = provider.name
        self.device = provider.device
        self.ort = provider.open(graph)
        self.cache = KVCache(info, num_ctx)
        self.cos, self.sin = rotary_tables(info, num_ctx)  # (num_ctx, head_dim / 2) float32
        self.logits = np.zeros(info.vocab_size, np.float32)  # (V,): of the last token evaluated
        self.size_bytes = info.weight_bytes + self.cache.num_bytes + 2 * self.cos.nbytes + RUNNER_BYTES
        chunk = max(1, min(num_batch, provider.prefill_chunk))
        self.tile = min(TILE, chunk)
        self._chunk = chunk - chunk % self.tile
        self._steps: dict[tuple[int, int], Step] = {}
        self._decode = self._step(1, 1)

    def prefill(self, tokens: Sequence[int], past: int) -> Iterator[int]:
        """Evaluates `tokens` at positions past.. in steps, yielding how many are done after each.

        After the last, `logits` is that of the last token. Stop iterating to cancel: what was yielded stays valid.
        """
        done = 0
        for size in steps(len(tokens), chunk=self._chunk, tile=self.tile):
            chunk, start = tokens[done : done + size], past + done
            done += size
            self._step(size, 1 if done == len(tokens) else 0).run(chunk, start)
            yield done

    def decode(self, token: int, past: int) -> None:
        """Evaluates one token at position `past`; `logits` is valid until the next call."""
        self._decode.run((token,), past)

    @property
    def shifts(self) -> bool:
        """Whether `drop` works: only keys of a float type can be turned."""
        return self.cache.values.dtype.kind == "f"

    def drop(self, kept: int, count: int, length: int) -> None:
        """Of `length` positions, removes `count` after the first `kept`; those behind move there."""
        for layer in range(self.info.num_layers):
            keys, values = self.cache.of(layer, "key"), self.cache.of(layer, "value")
            drop_positions(keys, values, self.info.rope_inv_freq, kept=kept, count=count, length=length)

    def close(self) -> None:
        """Frees the weights; the session is of no use afterwards."""
        self._steps.clear()
        del self._decode, self.ort
        gc.collect()

    def _step(self, num_tokens: int, num_rows: int) -> Step:
        """A bound step; the shapes used last are kept, for binding one costs half a millisecond."""
        step = self._steps.pop((num_tokens, num_rows), None) or Step(self, num_tokens, num_rows)
        self._steps[num_tokens, num_rows] = step
        if len(self._steps) > KEPT_BINDINGS:
            del self._steps[next(iter(self._steps))]
        return step


def open_session(
    variant_dir: Path,
    info: VariantInfo,
    *,
    num_ctx: int,
    num_threads: int = 0,
    num_batch: int = 512,
    num_gpu: int = -1,
) -> Session:
    """The variant's session on its own provider, or with `num_gpu` 0 on the CPU.

    `num_ctx` tokens are clamped to what the model was trained for.

    Raises what ONNX Runtime raises for a damaged graph, and MemoryError or OSError where memory is short.
    """
    provider = load_provider(info.provider if num_gpu else CPU, num_threads)
    num_ctx = max(1, min(num_ctx, info.context_length))
    return Session(variant_dir / info.graph, info, provider, num_ctx=num_ctx, num_batch=num_batch)


def steps(num_tokens: int, *, chunk: int, tile: int) -> Iterator[int]:
    """Sizes of prefill steps: `chunk`, a multiple of `tile`, as long as tokens last, then the rest.

    A step of one token runs in other kernels than longer ones, so none is left alone: the step before it leaves
    it a tile, or where a chunk is no more than a tile, a token for company.
    """
    while num_tokens > chunk:
        size = chunk
        if num_tokens == chunk + 1:
            size = max(chunk - (tile if tile < chunk else 1), 1)
        yield size
        num_tokens -= size
    if num_tokens:
        yield num_tokens


def rotary_tables(info: VariantInfo, num_ctx: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin of every position's angles, (num_ctx, len(rope_inv_freq)) float32 each."""
    angles = np.outer(np.arange(num_ctx, dtype=np.float64), np.array(info.rope_inv_freq))
    scale = info.rope_attention_scale
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def _bind(bind: object, name: str, array: NDArray[np.generic]) -> None:
    """Binds an array's own memory, which must outlive the binding."""
    assert callable(bind)
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
