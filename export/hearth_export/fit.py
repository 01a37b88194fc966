"""The scale of a block of weights: several candidates are tried, each fitted by least squares, and the best one kept.

Every array is (block, n): one column a block, so that all steps run along the long axis. The large weights of a block
count for more in what is minimised: they matter more in a product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hearth_export.ggml import Floats


def fit_symmetric(x: Floats, half: int, candidates: Sequence[float]) -> Floats:
    """scale (n,) for x = scale * q with integers q in -half .. half - 1; negative where the peak is positive.

    A candidate is the code (its sign apart) that the entry of largest magnitude would get without rounding.
    """
    high, low = x.max(axis=0), x.min(axis=0)
    unit = reciprocal(-np.where(high > -low, high, low))
    importance = np.abs(x)
    scale, best = np.zeros_like(unit), np.zeros_like(unit)
    q, weighted = np.empty_like(x), np.empty_like(x)
    for candidate in candidates:
        np.multiply(x, unit * np.float32(candidate), out=q)
        np.rint(q, out=q)
        np.clip(q, -half, half - 1, out=q)
        np.multiply(importance, q, out=weighted)
        product, square = _dot(weighted, x), _dot(weighted, q)
        fitted = product * reciprocal(square)
        gain = product * fitted  # how much of the weighted square of x is explained
        better = gain > best
        scale[better], best[better] = fitted[better], gain[better]
    return scale


def fit_affine(x: Floats, top: int, candidates: Sequence[float]) -> tuple[Floats, Floats]:
    """scale (n,) and depth (n,), neither negative, for x = scale * q - depth with integers q in 0 .. top.

    A candidate is the code that the largest entry would get without rounding, the smallest getting 0.
    """
    low = np.minimum(x.min(axis=0), np.float32(0))
    unit = reciprocal(x.max(axis=0) - low)
    importance = np.abs(x)
    importance += np.sqrt(_dot(x, x) / np.float32(len(x)))
    total, total_x = importance.sum(axis=0), _dot(importance, x)
    scale, depth, best = np.zeros_like(unit), -low, np.full_like(unit, np.inf)
    raised, q, weighted = x - low, np.empty_like(x), np.empty_like(x)
    for candidate in candidates:
        np.multiply(raised, unit * np.float32(candidate), out=q)
        np.rint(q, out=q)
        np.minimum(q, np.float32(top), out=q)
        np.multiply(importance, q, out=weighted)
        total_q, product, square = weighted.sum(axis=0), _dot(weighted, x), _dot(weighted, q)
        inverse = reciprocal(total * square - total_q * total_q)
        fitted = (total * product - total_x * total_q) * inverse
        floor = (square * total_x - total_q * product) * inverse
        above = floor > 0  # a depth cannot be negative: fitted without one
        fitted = np.where(above, product * reciprocal(square), fitted)
        floor = np.where(above, np.float32(0), floor)
        error = fitted * (fitted * square - 2 * product + 2 * floor * total_q) + floor * (floor * total - 2 * total_x)
        better = (error < best) & (fitted > 0)
        scale[better], depth[better], best[better] = fitted[better], -floor[better], error[better]
    return scale, depth


def reciprocal(values: Floats) -> Floats:
    """1 / values; 0 where that is not finite: a block with such a scale is as good as zero."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / values
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _dot(a: Floats, b: Floats) -> Floats:
    """Products summed over each column, (n,)."""
    return np.asarray(np.einsum("kn,kn->n", a, b), np.float32)
