"""An encoder in ONNX Runtime: texts of token ids become vectors, those about as long evaluated side by side."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hearthd.engine.providers.provider import Provider
from hearthd.store import variant
from hearthd.store.variant import VariantInfo

Floats = NDArray[np.float32]
Texts = Sequence[Sequence[int]]

NUM_BATCH = 512  # tokens evaluated at once: more gain nothing and take more memory
MAX_PADDING = 0.2  # share of a batch's tokens that may be padding
MIN_UNPADDED = 96  # tokens that are better read without padding, which attention must mask, than with more tokens


class EncoderSession:
    """A model that reads. Not for use by two threads at once.

    `num_batch` tokens, padding among them, are evaluated at once, but always a whole text.
    """

    def __init__(self, directory: Path, info: VariantInfo, provider: Provider, *, num_batch: int = NUM_BATCH) -> None:
        self.info = info
        self.provider = provider.name
        self.device = provider.device
        self.hidden_size = info.hidden_size
        self.num_batch = max(1, num_batch)
        self.ort = provider.open(directory / info.graph, wide=True)

    def vectors(self, texts: Texts) -> Floats:
        """(len(texts), hidden_size): the texts' vectors in their order, pooled as the checkpoint says, not normalised.

        Raises ValueError for a text of no token, or of more than info.context_length.
        """
        vectors = np.zeros((len(texts), self.hidden_size), np.float32)
        for indices, part in self.batches(texts):
            vectors[indices] = part
        return vectors

    def batches(self, texts: Texts) -> Iterator[tuple[list[int], Floats]]:
        """As `vectors`, piecemeal: which texts a step has read, and their vectors (len(indices), hidden_size)."""
        for text in texts:
            if not 0 < len(text) <= self.info.context_length:
                raise ValueError(f"a text of {len(text)} tokens: 1 to {self.info.context_length} can be read")
        lengths = [len(text) for text in texts]
        for indices in unpadded_apart(side_by_side(lengths, self.num_batch), lengths):
            yield indices, self._run([texts[index] for index in indices])

    def close(self) -> None:
        """Frees the weights; the session is of no use afterwards."""
        del self.ort
        gc.collect()

    def _run(self, texts: Texts) -> Floats:
        lengths = np.array([len(text) for text in texts], np.int32)
        ids = np.zeros((len(texts), lengths.max()), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        feeds = {variant.INPUT_IDS: ids, variant.LENGTHS: lengths}
        (vectors,) = self.ort.run([variant.EMBEDDINGS], feeds, self._options(ids.size))
        result: Floats = vectors
        return result

    def _options(self, num_tokens: int) -> ort.RunOptions | None:
        """Of a step: what one long text took goes back when it is done, what every step takes is kept."""
        if num_tokens <= self.num_batch:
            return None
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options


def side_by_side(lengths: Sequence[int], num_batch: int) -> Iterator[list[int]]:
    """The indices of texts of these `lengths`, grouped, the longest first.

    A group has at most `num_batch` tokens, each text as long as its longest, unless it is one text; at most
    MAX_PADDING of them are padding.
    """
    group: list[int] = []
    num_tokens = longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        padded = (len(group) + 1) * longest
        num_tokens += lengths[index]
        if group and (padded > num_batch or padded - num_tokens > MAX_PADDING * padded):
            yield group
            group = []
        if not group:
            longest = num_tokens = lengths[index]
        group.append(index)
    if group:
        yield group


def unpadded_apart(groups: Iterable[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
    """The groups as they are, but that those in them of one length are a group where they have MIN_UNPADDED tokens."""
    for group in groups:
        others: list[int] = []
        for length, found in groupby(group, key=lambda index: lengths[index]):
            alike = list(found)
            if len(alike) * length >= MIN_UNPADDED:
                yield alike
            else:
                others += alike
        if others:
            yield others
