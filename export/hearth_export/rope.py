"""Rotary embedding: frequencies of a checkpoint with its scaling applied."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import Rope

FACTORS = "rope_freqs.weight"  # one divisor a frequency: Llama 3.1's scaling, computed at conversion to GGUF
MAX_FACTOR = 1e6


def read_rope(gguf: Checkpoint, prefix: str, head_dim: int, *, rows_interleaved: bool) -> Rope:
    """The Rope of `gguf`, whose keys begin with `prefix`. Scaling: none, linear, yarn, or a tensor of factors."""
    base = _number(gguf, f"{prefix}.rope.freq_base", 10000.0, 1.001, 1e30)
    inv_freq = base ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    inv_freq, attention_scale = _scaled(gguf, prefix, base, inv_freq)
    if FACTORS in gguf.tensors:
        inv_freq = inv_freq / _factors(gguf, inv_freq.size)
    return Rope(tuple(inv_freq.tolist()), attention_scale, rows_interleaved)


def _scaled(
    gguf: Checkpoint, prefix: str, base: float, inv_freq: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    kind = gguf.get(f"{prefix}.rope.scaling.type", str, "linear")
    if kind == "none":
        return inv_freq, 1.0
    factor = _factor(gguf, prefix)
    if kind == "linear":
        return inv_freq / factor, 1.0
    if kind == "yarn":
        return _yarn(gguf, prefix, base, factor, inv_freq)
    raise UnsupportedModel(f"{gguf.path}: {prefix}.rope.scaling.type is '{kind}' (known: none, linear, yarn)")


def _factor(gguf: Checkpoint, prefix: str) -> float:
    """How many times longer the context became; an old key has another name, and 0 stands for 1."""
    keys = (f"{prefix}.rope.scaling.factor", f"{prefix}.rope.scale_linear")
    key = next((key for key in keys if key in gguf.metadata), keys[0])
    return _number(gguf, key, 1.0, 0.0, MAX_FACTOR) or 1.0


def _number(gguf: Checkpoint, key: str, default: float, least: float, most: float) -> float:
    value = gguf.get(key, float, default)
    if not least <= value <= most:
        raise BadCheckpoint(f"{gguf.path}: {key} is {value}, outside {least:g}..{most:g}")
    return value


def _yarn(
    gguf: Checkpoint, prefix: str, base: float, factor: float, inv_freq: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """YaRN (arXiv 2309.00071): slow frequencies are interpolated, fast ones kept, a ramp between.

    Defaults and the growth of cos and sin are llama.cpp's (`rope_yarn` in ggml-cpu's ops.cpp).
    """
    scaling = f"{prefix}.rope.scaling"
    trained = gguf.get(f"{prefix}.context_length", float, 1.0)
    original = _number(gguf, f"{scaling}.original_context_length", trained, 1, 1 << 27)
    fast = _number(gguf, f"{scaling}.yarn_beta_fast", 32.0, 1e-3, 1e6)
    slow = _number(gguf, f"{scaling}.yarn_beta_slow", 1.0, 1e-3, 1e6)
    attention_factor = _number(gguf, f"{scaling}.attn_factor", 1.0, 1e-3, 1e3)
    if gguf.get(f"{scaling}.yarn_ext_factor", float, 1.0) != 1.0:
        raise UnsupportedModel(f"{gguf.path}: {scaling}.yarn_ext_factor is not 1, which cannot be converted")
    dim = 2 * inv_freq.size

    def turns(beta: float) -> float:
        return dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(turns(fast))), min(dim - 1, math.ceil(turns(slow)))
    ramp = np.clip((np.arange(inv_freq.size) - low) / max(0.001, high - low), 0, 1)
    return inv_freq / factor * ramp + inv_freq * (1 - ramp), attention_factor * (1 + 0.1 * math.log(max(1.0, factor)))


def _factors(gguf: Checkpoint, size: int) -> NDArray[np.float32]:
    info = gguf.tensor(FACTORS)
    if info.type != "F32" or info.shape != (size,):
        raise BadCheckpoint(f"{gguf.path}: {FACTORS} is {info.type} {info.shape}, expected F32 ({size},)")
    factors = gguf.rows(FACTORS, 0, 1).view(np.float32).reshape(-1).copy()
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise BadCheckpoint(f"{gguf.path}: {FACTORS} holds a factor that is not positive")
    return factors
