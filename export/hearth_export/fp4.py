"""The types of 4 bit floats, MXFP4 and NVFP4: a block's values are twice those of E2M1, its scale half of what it says.

Values and scales: `kvalues_mxfp4`, `ggml_e8m0_to_fp32_half` and `ggml_ue4m3_to_fp32` in ggml's ggml-common.h and
ggml-impl.h.
"""

from __future__ import annotations

import numpy as np

from hearth_export.blocks import Blocks, Bytes, Floats, finish, nibbles, split

_MAGNITUDES = (0, 1, 2, 3, 4, 6, 8, 12)
_CODES = np.array([128 + m for m in _MAGNITUDES] + [128 - m for m in _MAGNITUDES], np.uint8)


def _e8m0_halves() -> Floats:
    """2 ** (e - 128) for every byte e; the last means NaN."""
    halves = np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)
    halves[255] = np.nan
    return halves


def _ue4m3_halves() -> Floats:
    """Half of the 8 bit float of 4 exponent and 3 mantissa bits; the top bit does not count, and 127 is 0."""
    exponent, mantissa = np.divmod(np.arange(256) & 127, 8)
    normal = np.ldexp(1 + mantissa / 8, exponent - 8)
    halves = np.where(exponent == 0, np.ldexp(mantissa / 8, -7), normal).astype(np.float32)
    halves[127] = 0
    return halves


_E8M0_HALVES, _UE4M3_HALVES = _e8m0_halves(), _ue4m3_halves()


def mxfp4(raw: Bytes) -> Blocks:
    b = split(raw, 17)
    return finish(_CODES.take(nibbles(b[:, :, 1:])), 8, _E8M0_HALVES[b[:, :, 0]], None, 32)


def nvfp4(raw: Bytes) -> Blocks:
    b = split(raw, 36)
    groups = b[:, :, 4:].reshape(b.shape[0], -1, 8)  # (rows, groups of 16, bytes)
    return finish(_CODES.take(nibbles(groups)), 8, _UE4M3_HALVES[b[:, :, :4]], None, 16)
