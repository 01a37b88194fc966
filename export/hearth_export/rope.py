"""Rotary embedding: frequencies of a checkpoint with its scaling applied."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import Rope

# One divisor a frequency, computed at conversion to GGUF: Llama 3.1's scaling, and longrope's in two windows.
FACTORS = "rope_freqs.weight"
LONG_FACTORS = "rope_factors_long.weight"
SHORT_FACTORS = "rope_factors_short.weight"
TENSORS = frozenset({FACTORS, LONG_FACTORS, SHORT_FACTORS})
MIN_BASE, MAX_BASE = 1.001, 1e30
MAX_FACTOR = 1e6
MAX_CONTEXT = 1 << 27
BASE_KEYS = ("rope.freq_base", "rope.global.freq_base")  # llama.cpp's name, Ollama's of early Gemma 3 files
WINDOW_BASE_KEYS = ("rope.freq_base_swa", "rope.local.freq_base")
KINDS = ("none", "linear", "yarn", "longrope")
# Not a key of llama.cpp, which always truncates: whether yarn's ramp begins and ends at whole frequencies.
TRUNCATE = "rope.scaling.yarn_truncate"


def read_rope(
    checkpoint: Checkpoint,
    prefix: str,
    head_dim: int,
    *,
    rows_interleaved: bool,
    default_base: float = 10000.0,
    default_factor: float = 1.0,
) -> Rope:
    """The Rope of a checkpoint whose keys begin with `prefix`; it turns `rope.dimension_count` of `head_dim` values.

    Scaling: none, linear, yarn, longrope, or a tensor of factors; linear by `default_factor` where nothing is said.
    """
    base = _base(checkpoint, prefix, BASE_KEYS, default_base)
    plain = _frequencies(base, rotary_dim(checkpoint, prefix, head_dim))
    inv_freq, attention_scale = _scaled(checkpoint, prefix, base, plain, default_factor)
    if FACTORS in checkpoint.tensors:
        inv_freq = inv_freq / _factors(checkpoint, FACTORS, plain.size)
    if LONG_FACTORS in checkpoint.tensors or SHORT_FACTORS in checkpoint.tensors:
        return _longrope(checkpoint, prefix, inv_freq, attention_scale, rows_interleaved)
    if _kind(checkpoint, prefix) == "longrope":
        raise BadCheckpoint(
            f"{checkpoint.path}: {prefix}.rope.scaling.type is 'longrope', but {LONG_FACTORS} is missing"
        )
    return Rope(tuple(inv_freq.tolist()), attention_scale, rows_interleaved)


def read_window_rope(
    checkpoint: Checkpoint, prefix: str, head_dim: int, default_base: float, *, rows_interleaved: bool = False
) -> Rope:
    """The Rope of layers that see a window only, where these turn without scaling: `rope.freq_base_swa`."""
    base = _base(checkpoint, prefix, WINDOW_BASE_KEYS, default_base)
    inv_freq = _frequencies(base, rotary_dim(checkpoint, prefix, head_dim))
    return Rope(tuple(inv_freq.tolist()), rows_interleaved=rows_interleaved)


def rotary_dim(checkpoint: Checkpoint, prefix: str, head_dim: int) -> int:
    """How many values of a head turn: an even number."""
    key = f"{prefix}.rope.dimension_count"
    value = checkpoint.get(key, int, head_dim)
    if not 2 <= value <= head_dim or value % 2:
        raise BadCheckpoint(f"{checkpoint.path}: {key} is {value}, not an even number in 2..{head_dim}")
    return value


def _base(checkpoint: Checkpoint, prefix: str, keys: tuple[str, ...], default: float) -> float:
    names = [f"{prefix}.{key}" for key in keys]
    name = next((name for name in names if name in checkpoint.metadata), names[0])
    return _number(checkpoint, name, default, MIN_BASE, MAX_BASE)


def _frequencies(base: float, dim: int) -> NDArray[np.float64]:
    return np.asarray(base ** -(np.arange(0, dim, 2, dtype=np.float64) / dim))


def _kind(checkpoint: Checkpoint, prefix: str) -> str:
    key = f"{prefix}.rope.scaling.type"
    kind = checkpoint.get(key, str, "linear")
    if kind not in KINDS:
        raise UnsupportedModel(f"{checkpoint.path}: {key} is '{kind[:64]}' (known: {', '.join(KINDS)})")
    return kind


def _scaled(
    checkpoint: Checkpoint, prefix: str, base: float, inv_freq: NDArray[np.float64], default_factor: float
) -> tuple[NDArray[np.float64], float]:
    """Frequencies, and what cos and sin are multiplied by. Factors in tensors are still to be applied."""
    attention_scale = _number(checkpoint, f"{prefix}.rope.scaling.attn_factor", 1.0, 1e-3, 1e3)
    kind = _kind(checkpoint, prefix)
    if kind == "linear":
        return inv_freq / _factor(checkpoint, prefix, default_factor), attention_scale
    if kind == "yarn":
        factor = _factor(checkpoint, prefix, default_factor)
        return _yarn(checkpoint, prefix, base, factor, inv_freq), attention_scale * yarn_growth(factor)
    return inv_freq, attention_scale


def _factor(checkpoint: Checkpoint, prefix: str, default: float) -> float:
    """How many times longer the context became; an old key has another name, and 0 stands for 1."""
    keys = (f"{prefix}.rope.scaling.factor", f"{prefix}.rope.scale_linear")
    key = next((key for key in keys if key in checkpoint.metadata), keys[0])
    return _number(checkpoint, key, default, 0.0, MAX_FACTOR) or 1.0


def _number(checkpoint: Checkpoint, key: str, default: float, least: float, most: float) -> float:
    value = checkpoint.get(key, float, default)
    if not least <= value <= most:
        raise BadCheckpoint(f"{checkpoint.path}: {key} is {value}, outside {least:g}..{most:g}")
    return value


def yarn_growth(factor: float) -> float:
    """What yarn multiplies cos and sin by, unless it is told otherwise."""
    return 1 + 0.1 * math.log(max(1.0, factor))


def _yarn(
    checkpoint: Checkpoint, prefix: str, base: float, factor: float, inv_freq: NDArray[np.float64]
) -> NDArray[np.float64]:
    """YaRN (arXiv 2309.00071): slow frequencies are interpolated, fast ones kept, a ramp between.

    Defaults are llama.cpp's (`rope_yarn` in ggml-cpu's ops.cpp).
    """
    scaling = f"{prefix}.rope.scaling"
    original = _original_context(checkpoint, prefix)
    fast = _number(checkpoint, f"{scaling}.yarn_beta_fast", 32.0, 1e-3, 1e6)
    slow = _number(checkpoint, f"{scaling}.yarn_beta_slow", 1.0, 1e-3, 1e6)
    if checkpoint.get(f"{scaling}.yarn_ext_factor", float, 1.0) != 1.0:
        raise UnsupportedModel(f"{checkpoint.path}: {scaling}.yarn_ext_factor is not 1, which cannot be converted")
    dim = 2 * inv_freq.size

    def turns(beta: float) -> float:
        return dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base))

    low, high = turns(fast), turns(slow)
    if checkpoint.get(f"{prefix}.{TRUNCATE}", bool, True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(dim - 1, high)
    ramp = np.clip((np.arange(inv_freq.size) - low) / max(0.001, high - low), 0, 1)
    return np.asarray(inv_freq / factor * ramp + inv_freq * (1 - ramp))


def _original_context(checkpoint: Checkpoint, prefix: str) -> float:
    """The window that the model was trained with before its context was made longer."""
    trained = checkpoint.get(f"{prefix}.context_length", float, 1.0)
    return _number(checkpoint, f"{prefix}.rope.scaling.original_context_length", trained, 1, MAX_CONTEXT)


def _longrope(
    checkpoint: Checkpoint, prefix: str, inv_freq: NDArray[np.float64], attention_scale: float, rows_interleaved: bool
) -> Rope:
    """LongRoPE (arXiv 2402.13753): one set of factors up to the original window, another beyond it."""
    short = inv_freq / _factors(checkpoint, SHORT_FACTORS, inv_freq.size)
    long = inv_freq / _factors(checkpoint, LONG_FACTORS, inv_freq.size)
    return Rope(
        tuple(short.tolist()),
        attention_scale,
        rows_interleaved,
        tuple(long.tolist()),
        attention_scale,
        int(_original_context(checkpoint, prefix)),
    )


def _factors(checkpoint: Checkpoint, name: str, size: int) -> NDArray[np.float32]:
    info = checkpoint.tensor(name)
    if info.type != "F32" or info.shape != (size,):
        raise BadCheckpoint(f"{checkpoint.path}: {name} is {info.type} {info.shape}, expected F32 ({size},)")
    factors = checkpoint.rows(name, 0, 1).view(np.float32).reshape(-1).copy()
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise BadCheckpoint(f"{checkpoint.path}: {name} holds a factor that is not positive")
    return factors
