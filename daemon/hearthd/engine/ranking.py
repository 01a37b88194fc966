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
MAX_ROWS = 128  # of the table whose column maxima bound the k-th largest key
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


def column_maxima(keys: Keys, k: int) -> Keys:
    """The maxima of the columns of (n,) keys as a table, ascending; columns enough for a good bound of the k-th key.

    The last one is the largest key, or NaN where there is one. They are the keys themselves where `k` is large.
    """
    num_rows = min(MAX_ROWS, len(keys) // (4 * k), math.isqrt(len(keys)))
    if num_rows < 4:
        return np.sort(keys)
    width = len(keys) // num_rows
    maxima: Keys = np.maximum.reduce(keys[: num_rows * width].reshape(num_rows, width))
    rest = keys[num_rows * width :]
    if len(rest):
        np.maximum(maxima[: len(rest)], rest, out=maxima[: len(rest)])
    maxima.sort()
    return maxima


def largest(keys: Keys, k: int, maxima: Keys | None = None) -> Places:
    """The places of the `k` largest of (n,) keys, largest first; fewer where fewer are above -inf.

    `maxima` are the column maxima where these are known already.
    """
    places = _at_least_kth(keys, k, column_maxima(keys, k) if maxima is None else maxima)
    values = keys[places]
    if len(places) <= max(4 * k, FEW):
        return places[ranked(values)[:k]]
    kth = np.partition(values, len(values) - k)[len(values) - k]
    above = places[values > kth]
    equal = places[values == kth][: k - len(above)]
    return np.concatenate((above[ranked(keys[above])], equal))


def _at_least_kth(keys: Keys, k: int, maxima: Keys) -> Places:
    """Places of a superset, mostly small, of the k largest keys: all not below the k-th largest column maximum."""
    floor = maxima[len(maxima) - k] if k < len(maxima) else -np.inf
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
