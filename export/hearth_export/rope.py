"""Rotary embedding: frequencies of a checkpoint with its scaling applied."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.readers.gguf import GGUF
from hearth_export.spec import Rope

FACTORS = "rope_freqs.weight"  # one divisor a frequency: Llama 3.1's scaling, computed at conversion to GGUF


def read_rope(gguf: GGUF, prefix: str, head_dim: int, *, rows_interleaved: bool) -> Rope:
    """The Rope of `gguf`, whose keys begin with `prefix`. Scaling: none, linear, yarn, or a tensor of factors."""
    base = gguf.get(f"{prefix}.rope.freq_base", float, 10000.0)
    if not (math.isfinite(base) and base > 0):
        raise BadCheckpoint(f"{gguf.path}: {prefix}.rope.freq_base is {base}")
    inv_freq = base ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    inv_freq, attention_scale = _scaled(gguf, prefix, base, inv_freq)
    if FACTORS in gguf.tensors:
        inv_freq = inv_freq / _factors(gguf, inv_freq.size)
    return Rope(tuple(inv_freq.tolist()), attention_scale, rows_interleaved)


def _scaled(gguf: GGUF, prefix: str, base: float, inv_freq: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    kind = gguf.get(f"{prefix}.rope.scaling.type", str, "none")
    legacy = gguf.get(f"{prefix}.rope.scale_linear", float, 1.0)
    factor = gguf.get(f"{prefix}.rope.scaling.factor", float, legacy)
    if kind == "none" and legacy != 1.0:
        kind = "linear"
    if not (math.isfinite(factor) and factor > 0):
        raise BadCheckpoint(f"{gguf.path}: {prefix}.rope.scaling.factor is {factor}")
    if kind == "none":
        return inv_freq, 1.0
    if kind == "linear":
        return inv_freq / factor, 1.0
    if kind == "yarn":
        return _yarn(gguf, prefix, base, factor, inv_freq)
    raise UnsupportedModel(f"{gguf.path}: {prefix}.rope.scaling.type is '{kind}' (known: none, linear, yarn)")


def _yarn(
    gguf: GGUF, prefix: str, base: float, factor: float, inv_freq: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """YaRN (arXiv 2309.00071): slow frequencies are interpolated, fast ones kept, a ramp between."""
    original = gguf.require(f"{prefix}.rope.scaling.original_context_length", int)
    fast = gguf.get(f"{prefix}.rope.scaling.yarn_beta_fast", float, 32.0)
    slow = gguf.get(f"{prefix}.rope.scaling.yarn_beta_slow", float, 1.0)
    attention_factor = gguf.get(f"{prefix}.rope.scaling.attn_factor", float, 1.0)
    dim = 2 * inv_freq.size

    def turns(beta: float) -> float:
        return dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(turns(fast))), min(dim - 1, math.ceil(turns(slow)))
    ramp = np.clip((np.arange(inv_freq.size) - low) / max(0.001, high - low), 0, 1)
    return inv_freq / factor * ramp + inv_freq * (1 - ramp), attention_factor * (1 + 0.1 * math.log(factor))


def _factors(gguf: GGUF, size: int) -> NDArray[np.float32]:
    info = gguf.tensor(FACTORS)
    if info.type != "F32" or info.shape != (size,):
        raise BadCheckpoint(f"{gguf.path}: {FACTORS} is {info.type} {info.shape}, expected F32 ({size},)")
    factors = gguf.rows(FACTORS, 0, 1).view(np.float32).reshape(-1).copy()
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise BadCheckpoint(f"{gguf.path}: {FACTORS} holds a factor that is not positive")
    return factors
