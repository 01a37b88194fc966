"""The tokens that penalties look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from hearthd.engine.candidates import Ids


class Recent:
    """The last `size` tokens: which they are, and how often each occurs. Adding one takes the same time at any size."""

    def __init__(self, size: int, tokens: Iterable[int] = ()) -> None:
        self._window = deque(tokens, maxlen=size)
        counts: dict[int, int] = {}
        for token in self._window:
            counts[token] = counts.get(token, 0) + 1
        self._places = {token: place for place, token in enumerate(counts)}
        self._ids = np.zeros(size + 1, np.int64)
        self._counts = np.zeros(size + 1, np.int64)
        self._ids[: len(counts)] = list(counts)
        self._counts[: len(counts)] = list(counts.values())

    def add(self, token: int) -> None:
        """Takes in the newest token; the oldest leaves where there are more than `size`."""
        if not self._window.maxlen:
            return
        if len(self._window) == self._window.maxlen:
            self._forget(self._window[0])
        self._window.append(token)
        place = self._places.setdefault(token, len(self._places))
        self._ids[place] = token
        self._counts[place] += 1

    def _forget(self, token: int) -> None:
        place = self._places[token]
        self._counts[place] -= 1
        if self._counts[place]:
            return
        last = len(self._places) - 1
        moved = int(self._ids[last])
        self._ids[place], self._counts[place], self._counts[last] = moved, self._counts[last], 0
        self._places[moved] = place
        del self._places[token]

    @property
    def ids(self) -> Ids:
        """(n,) the different tokens, in no particular order; valid until the next `add`."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Ids:
        """(n,) how often each of `ids` occurs, 1 at least."""
        return self._counts[: len(self._places)]
