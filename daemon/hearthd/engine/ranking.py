"""Which of many keys are the largest, found without sorting them all.

Of equal keys the one that comes first is the larger, so that every answer is the same on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.floating[Any]]
Places = NDArray[np.intp]

FEW = 512  # keys that are sorted outright
HEAD = 256  # keys that mostly hold the mass asked for, tried first
NUM_BINS = 1024
MAX_DEPTH = 40.0  # what lies deeper below the largest key shares the last bin
MIN_SAMPLE = 1024  # keys that tell where the k-th largest may lie
MAX_STRIDE = 128  # a sample has one key of so many at least
MIN_SHARE = 32  # times k: of fewer keys a sample tells nothing
MIN_DEPTH = 1e-30  # keys nearer to each other have no bins of their own in float32


def ranked(keys: Keys) -> Places:
    """The places of (n,) keys, largest key first."""
    if len(keys) <= FEW or keys.dtype != np.float32:
        return np.argsort(-keys, kind="stable")
    bits = (keys + np.float32(0)).view(np.int32)  # + 0 makes -0 the same as 0
    descending = ~(bits ^ ((bits >> 31) & 0x7FFF_FFFF))  # the order of IEEE 754 numbers as that of integers
    packed = (descending.astype(np.int64) << 32) | np.arange(len(keys))
    packed.sort()
    return packed & 0xFFFF_FFFF


def largest(keys: Keys, k: int) -> Places:
    """The places of the `k` largest of (n,) keys, largest first; fewer where fewer are above -inf."""
    places = _at_least_kth(keys, k)
    values = keys[places]
    if len(places) <= max(4 * k, FEW):
        return places[ranked(values)[:k]]
    kth = np.partition(values, len(values) - k)[len(values) - k]
    above = places[values > kth]
    equal = places[values == kth][: k - len(above)]
    return np.concatenate((above[ranked(keys[above])], equal))


def _at_least_kth(keys: Keys, k: int) -> Places:
    """Places of a superset, mostly small, of the k largest keys that are above -inf."""
    if k * MIN_SHARE < len(keys) and len(keys) >= 2 * MIN_SAMPLE:
        places = _not_below(keys, _likely_floor(keys, k))
        if len(places) >= k:
            return places
    return _not_below(keys, -np.inf)


def _likely_floor(keys: Keys, k: int) -> float:
    """A key that more than `k` keys most likely reach, and few times as many: told by a sample."""
    stride = min(len(keys) // MIN_SAMPLE, MAX_STRIDE)
    sample = keys[::stride].copy()
    sample.sort()
    expected = k / stride  # of the k largest, in the sample
    return float(sample[-math.ceil(1 + expected + 4 * math.sqrt(expected))])


def _not_below(keys: Keys, floor: float) -> Places:
    return (keys >= floor if floor > -np.inf else keys > -np.inf).nonzero()[0]


def fewest(keys: Keys, weights: Keys, target: float) -> Places:
    """The places of the fewest largest of (n,) finite keys whose weights add up to `target`.

    One at least; all where even they do not reach it. In no particular order.
    """
    head = ranked(keys) if len(keys) <= FEW else largest(keys, HEAD)
    reached = weights[head].cumsum(dtype=np.float64)
    if len(head) == len(keys) or reached[-1] >= target:
        return head[: int(np.searchsorted(reached, target)) + 1]
    return _fewest_by_bins(keys, weights, target)


def _fewest_by_bins(keys: Keys, weights: Keys, target: float) -> Places:
    """`fewest` of many: whole bins of like keys, and of the bin in which the target is reached its own fewest."""
    top = keys.max()
    depth = float(top) - float(keys.min())
    if depth < MIN_DEPTH:
        order = ranked(keys)
        return order[: int(np.searchsorted(weights[order].cumsum(dtype=np.float64), target)) + 1]
    scale = (NUM_BINS - 1) / min(depth, MAX_DEPTH)
    with np.errstate(over="ignore"):
        bins = np.minimum((top - keys) * keys.dtype.type(scale), NUM_BINS - 1).astype(np.intp)
    reached = np.bincount(bins, weights, NUM_BINS).cumsum()
    border = int(np.searchsorted(reached, target))
    if border >= NUM_BINS:
        return np.arange(len(keys))
    inside = np.flatnonzero(bins == border)
    rest = target - (float(reached[border - 1]) if border else 0.0)
    return np.concatenate((np.flatnonzero(bins < border), inside[fewest(keys[inside], weights[inside], rest)]))
