"""One Embed request in a decoder's runner: its texts are read one after the other, each from its first token."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.frames import Embed, Embedded
from hearthd.engine.sequence import Status
from hearthd.engine.vectors import answer

Floats = NDArray[np.float32]


class Reading:
    """How far it is. It touches no device.

    `texts` are token ids, none of them empty; `pooling` says which states make a text's vector: all of them ("mean"),
    the first token's ("cls"), else the last one's.
    """

    reproducible = True  # the same text gives the same vector, whatever ran before

    def __init__(self, request: Embed, texts: list[list[int]], hidden_size: int, pooling: str) -> None:
        self.id = request.id
        self.status = Status.WAITING
        self._request = request
        self._texts = texts
        self._pooling = pooling
        self._vectors = np.zeros((len(texts), hidden_size), np.float32)
        self._sum = np.zeros(hidden_size, np.float64)
        self._current = 0
        self._started_ns = 0

    @property
    def prompt(self) -> list[int]:
        """The text that is being read."""
        return self._texts[self._current]

    @property
    def reads_all(self) -> bool:
        """Whether other tokens' states than the last one's matter, so that all of a text must be evaluated."""
        return self._pooling in ("mean", "cls")

    @property
    def finished(self) -> bool:
        """Whether all texts are read."""
        return self._current == len(self._texts)

    def begin_prefill(self, cached_count: int) -> None:
        """A slot is its own that holds the first `cached_count` tokens of the text."""
        self.status = Status.PREFILL
        self._started_ns = self._started_ns or time.monotonic_ns()

    def num_rows(self, num_tokens: int, *, last: bool) -> int:
        """Of the next `num_tokens` tokens, how many states are wanted: those of the last ones."""
        if self.reads_all:
            return num_tokens
        return 1 if last else 0

    def take(self, states: Floats, past: int) -> None:
        """States (rows, hidden_size) of the tokens from position `past` on, or of the last one, or none."""
        if self._pooling == "mean":
            self._sum += states.sum(axis=0, dtype=np.float64)
        elif self._pooling == "cls":
            if past == 0:
                self._vectors[self._current] = states[0]
        elif len(states):
            self._vectors[self._current] = states[-1]

    def end_text(self) -> None:
        """The whole text was read."""
        if self._pooling == "mean":
            self._vectors[self._current] = self._sum / len(self.prompt)
            self._sum[:] = 0
        self._current += 1
        self.status = Status.FINISHED if self.finished else Status.WAITING

    def answer(self) -> Embedded:
        """The frame that ends the request. Raises NonFiniteVector."""
        elapsed_ns = time.monotonic_ns() - self._started_ns if self._started_ns else 0
        return answer(self._request, self._vectors, sum(map(len, self._texts)), elapsed_ns)
