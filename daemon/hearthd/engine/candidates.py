"""The tokens that may come next, and a draw among them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hearthd.engine.ranking import Keys, Places, largest

Ids = NDArray[np.integer[Any]]

MANY = 4096  # of more candidates the weights are float32, whose exponential takes a tenth of the time
BLOCK = 512  # weights summed as one in a draw among many


class NonFiniteLogits(ArithmeticError):
    """The model gave no usable logit: its best one is NaN or infinite."""

    def __init__(self) -> None:
        super().__init__("the model computed values that are not finite numbers; its weights or conversion are damaged")


class Candidates(msgspec.Struct, frozen=True, gc=False):
    """Tokens still in the draw, one at least."""

    ids: Ids  # (n,)
    logits: Keys  # (n,) none of them NaN, the largest finite
    is_ranked: bool = False  # best first

    def at(self, places: Places | NDArray[np.bool_]) -> Candidates:
        """Those at the given places of the two arrays."""
        return Candidates(self.ids[places], self.logits[places])

    def first(self, count: int) -> Candidates:
        """The first `count`, which are the best where the candidates are ranked."""
        return Candidates(self.ids[:count], self.logits[:count], self.is_ranked)


def possible(logits: Keys) -> Candidates:
    """The tokens of the row `logits` (V,) that are not forbidden by -inf. Raises NonFiniteLogits."""
    if not math.isfinite(np.maximum.reduce(logits)):
        raise NonFiniteLogits
    if np.minimum.reduce(logits) > -np.inf:
        return Candidates(_all_ids(len(logits)), logits)
    ids = (logits > -np.inf).nonzero()[0]
    return Candidates(ids, logits[ids])


def best_ids(logits: Keys, k: int) -> Places:
    """(n,) the `k` best tokens of the row `logits` (V,) that are not forbidden, best first. Raises NonFiniteLogits."""
    if not math.isfinite(logits[logits.argmax()]):
        raise NonFiniteLogits
    return largest(logits, k)


def best_possible(logits: Keys, k: int) -> Candidates:
    """As `best_ids`, with their logits."""
    ids = best_ids(logits, k)
    return Candidates(ids, logits[ids].astype(np.float64), True)


@lru_cache(maxsize=1)
def _all_ids(vocab_size: int) -> Ids:
    ids = np.arange(vocab_size)
    ids.setflags(write=False)
    return ids


def shifted(candidates: Candidates) -> Keys:
    """(n,) logits minus the largest one, a new array: float64, of more than MANY float32."""
    logits = candidates.logits
    if len(logits) > MANY and logits.dtype == np.float32:
        with np.errstate(over="ignore"):
            return np.asarray(logits - np.maximum.reduce(logits))
    best = logits[0] if candidates.is_ranked else np.maximum.reduce(logits)
    return np.asarray(logits.astype(np.float64, copy=False) - np.float64(best))


def weights(candidates: Candidates) -> Keys:
    """What the softmax of the logits divides by its sum: (n,) from 0 to 1, of the dtype of `shifted`."""
    values = shifted(candidates)
    return np.exp(values, out=values)


def drawn(shares: Keys, uniform: float) -> int:
    """A place in (n,) weights, in proportion to them, for a `uniform` number of [0, 1); never one of weight 0."""
    if len(shares) <= MANY:
        return _reaching(shares.cumsum(), uniform)
    reached = np.add.reduceat(shares, np.arange(0, len(shares), BLOCK), dtype=np.float64).cumsum()
    block = _reaching(reached, uniform)
    before = reached[block - 1] if block else 0.0
    within = (uniform * reached[-1] - before) / (reached[block] - before)
    start = block * BLOCK
    return start + _reaching(shares[start : start + BLOCK].cumsum(dtype=np.float64), within)


def _reaching(reached: Keys, uniform: float) -> int:
    """The place where (n,) running sums pass `uniform` of the whole, and that it is reached by where none does."""
    place = int(reached.searchsorted(uniform * reached[-1], side="right"))
    return place if place < len(reached) else int(reached.searchsorted(reached[-1]))
