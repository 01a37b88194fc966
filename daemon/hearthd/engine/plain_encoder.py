"""An encoder's graph that was not made here: it gives the states of tokens, which are pooled here, or vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.bound import BoundGraph
from hearthd.engine.encoder import NUM_BATCH, EncoderSession, Floats, Texts
from hearthd.engine.providers.provider import Provider
from hearthd.store.variant import Binding, VariantInfo


class PlainEncoder(EncoderSession):
    """A model that reads. Not for use by two threads at once."""

    def __init__(
        self, directory: Path, info: VariantInfo, binding: Binding, provider: Provider, *, num_batch: int = NUM_BATCH
    ) -> None:
        super().__init__(directory, info, provider, num_batch=num_batch)
        self._graph = BoundGraph(self.ort, binding)

    def close(self) -> None:
        """Frees the weights; the session is of no use afterwards."""
        del self._graph
        super().close()

    def _run(self, texts: Texts) -> Floats:
        binding, lengths = self._graph.binding, np.array([len(text) for text in texts])
        ids = np.full((len(texts), lengths.max()), binding.pad_id, np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        (output,) = self.ort.run([binding.output], self._graph.feeds(ids, [0] * len(texts), lengths.tolist()))
        states: Floats = output.astype(np.float32, copy=False)
        return states if states.ndim == 2 else pooled(states, lengths, self.info.pooling)


def pooled(states: Floats, lengths: NDArray[np.int64], pooling: str) -> Floats:
    """(B, H) of the states (B, S, H) of texts with so many tokens: their mean, or those of one token."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[np.arange(len(states)), lengths - 1]
    own = np.arange(states.shape[1]) < lengths[:, None]
    mean: Floats = (states * own[:, :, None]).sum(axis=1) / lengths[:, None].astype(np.float32)
    return mean
