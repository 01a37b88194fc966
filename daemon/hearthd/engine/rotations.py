"""How far each rope turns queries and keys at each position, in a window of a given length.

A rope may have other frequencies in long windows (LongRoPE, Ding et al. 2024): then keys of one window are of no use in
another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hearthd.store import variant
from hearthd.store.variant import RopeInfo, VariantInfo


def rotary_tables(info: VariantInfo, num_ctx: int, length: int | None = None) -> dict[str, NDArray[np.generic]]:
    """cos and sin of every position's angles, (num_ctx, rotary_dim / 2) float32 each, by the names of their inputs.

    With `length` of the first `length` positions alone.
    """
    tables: dict[str, NDArray[np.generic]] = {}
    positions = np.arange(num_ctx if length is None else length, dtype=np.float64)
    for index, rope in enumerate(info.ropes):
        inv_freq, scale = _frequencies(rope, num_ctx)
        angles = np.outer(positions, np.array(inv_freq))
        tables[variant.cos_name(index)] = (np.cos(angles) * scale).astype(np.float32)
        tables[variant.sin_name(index)] = (np.sin(angles) * scale).astype(np.float32)
    return tables


def inv_freq_of(info: VariantInfo, layer: int, num_ctx: int) -> list[float]:
    """The frequencies by which a layer's keys turn in a window of `num_ctx` tokens; [] where they do not."""
    index = info.layer_ropes[layer] if info.layer_ropes else 0
    return _frequencies(info.ropes[index], num_ctx)[0] if index >= 0 else []


def is_long(info: VariantInfo, num_ctx: int) -> bool:
    """Whether some rope has other frequencies in a window of `num_ctx` tokens than in a short one."""
    return any(_is_long(rope, num_ctx) for rope in info.ropes)


def _is_long(rope: RopeInfo, num_ctx: int) -> bool:
    return bool(rope.long_inv_freq) and num_ctx > rope.short_context


def _frequencies(rope: RopeInfo, num_ctx: int) -> tuple[list[float], float]:
    if _is_long(rope, num_ctx):
        return rope.long_inv_freq, rope.long_attention_scale
    return rope.inv_freq, rope.attention_scale
