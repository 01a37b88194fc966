"""The tokens that may come next, and a draw among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.ranking import Keys, Places

Ids = NDArray[np.integer[Any]]

MANY = 4096  # of more candidates the weights are float32, whose exponential takes a tenth of the time
BLOCK = 512  # weights summed as one in a draw among many


@dataclass(slots=True, frozen=True)
class Candidates:
    """Tokens still in the draw, one at least, in no particular order."""

    ids: Ids  # (n,)
    logits: Keys  # (n,) none of them NaN, the largest finite

    def at(self, places: Places | NDArray[np.bool_]) -> Candidates:
        """Those at the given places of the two arrays."""
        return Candidates(self.ids[places], self.logits[places])


def possible(logits: Keys) -> Candidates:
    """The tokens of the row `logits` (V,) that are not forbidden by -inf."""
    if logits.min() > -np.inf:
        return Candidates(_all_ids(len(logits)), logits)
    ids = np.flatnonzero(logits > -np.inf)
    return Candidates(ids, logits[ids])


@lru_cache(maxsize=1)
def _all_ids(vocab_size: int) -> Ids:
    ids = np.arange(vocab_size)
    ids.setflags(write=False)
    return ids


def shifted(logits: Keys) -> Keys:
    """(n,) logits minus the largest one: float64, of more than MANY float32."""
    dtype = np.float64 if len(logits) <= MANY else np.float32
    with np.errstate(over="ignore"):
        return np.asarray(np.subtract(logits, logits.max(), dtype=dtype))


def weights(logits: Keys) -> Keys:
    """What the softmax of (n,) logits divides by its sum: 0 to 1, of the dtype of `shifted`."""
    values = shifted(logits)
    return np.exp(values, out=values)


def drawn(shares: Keys, uniform: float) -> int:
    """A place in (n,) weights, in proportion to them, for a `uniform` number of [0, 1); never one of weight 0."""
    if len(shares) <= MANY:
        return _reaching(shares, uniform)[0]
    block, rest = _reaching(np.add.reduceat(shares, np.arange(0, len(shares), BLOCK), dtype=np.float64), uniform)
    start = block * BLOCK
    return start + _reaching(shares[start : start + BLOCK], rest)[0]


def _reaching(shares: Keys, uniform: float) -> tuple[int, float]:
    """The place where the running sum passes `uniform` of the whole, and how far into that place, from 0 to 1."""
    reached = shares.cumsum(dtype=np.float64)
    target = uniform * float(reached[-1])
    last = int(np.searchsorted(reached, reached[-1]))  # the last of weight above 0
    place = min(int(np.searchsorted(reached, target, side="right")), last)
    before = float(reached[place - 1]) if place else 0.0
    return place, (target - before) / (float(reached[place]) - before)
