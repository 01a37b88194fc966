"""Weights -> ggml blocks: the way back of what `ggml.py` unpacks.

Every encoder takes float32 weights (rows, K), all finite, and returns the rows' bytes as stored. Types of 32 elements
are rounded to nearest, with the scales that llama.cpp's quantizer chooses; types of 256 elements have their scales
searched for by `fit.py`. Layouts: the block structs of ggml's ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hearth_export.errors import UnsupportedModel
from hearth_export.fit import fit_affine, fit_symmetric, reciprocal
from hearth_export.ggml import BLOCK_TYPES, Bytes, Floats

Encoder = Callable[[Floats], Bytes]
SUPER = 256  # elements of a block of the K types
MAX_HALF = 65504.0
MAX_BF16 = float.fromhex("0x1.fep127")
_WIDE_TYPES = ("F32", "BF16")  # all others hold a float16 somewhere


def encode(type_name: str, w: Floats) -> Bytes:
    """The rows of `w` (rows, K) as blocks of a type of ENCODERS; K must be a multiple of its block.

    Raises UnsupportedModel where a weight is too large for the type's floats.
    """
    block_type, (rows, num_columns) = BLOCK_TYPES[type_name], w.shape
    assert num_columns % block_type.block == 0, (type_name, num_columns)
    if type_name not in _WIDE_TYPES:
        _refuse_larger(w, MAX_HALF, "16 bit floats: quantize to F32 or BF16")
    return ENCODERS[type_name](w).reshape(rows, block_type.row_bytes(num_columns))


# -- pieces ----------------------------------------------------------------------------------------------------------


def _refuse_larger(w: Floats, limit: float, what: str) -> None:
    largest = max(w.max(), -w.min())
    if largest > limit:
        raise UnsupportedModel(f"the weight {largest:g} is too large for {what} instead")


def _half_bytes(values: Floats) -> Bytes:
    """(n,) -> (n, 2)."""
    return values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _peaks(w: Floats, axis: int) -> Floats:
    """The entries of largest magnitude along an axis, the first of equal ones."""
    index = np.expand_dims(np.abs(w).argmax(axis=axis), axis)
    return np.take_along_axis(w, index, axis).squeeze(axis)


def _joined(fields: Bytes, width: int) -> Bytes:
    """Bit fields of `width` bits, lowest first, into bytes: (..., 8 // width, n) -> (..., n)."""
    packed = fields[..., 0, :].copy()
    for index in range(1, 8 // width):
        packed |= fields[..., index, :] << np.uint8(index * width)
    return packed


def _high_bits(q: Bytes) -> Bytes:
    """The fifth bits of (n, 32) codes: (n, 4)."""
    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little")


def _low_nibbles(q: Bytes) -> Bytes:
    """(n, 32) -> (n, 16): entries 0..15 in the low halves, 16..31 in the high ones."""
    return _joined((q & np.uint8(0x0F)).reshape(-1, 2, 16), 4)


# -- floats ----------------------------------------------------------------------------------------------------------


def _f32(w: Floats) -> Bytes:
    return w.view(np.uint8)


def _f16(w: Floats) -> Bytes:
    return w.astype(np.float16).view(np.uint8)


def _bf16(w: Floats) -> Bytes:
    """Rounded to nearest, ties to even."""
    _refuse_larger(w, MAX_BF16, "BF16: quantize to F32")
    bits = w.view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8)


# -- the 32-element types, rounded to nearest ------------------------------------------------------------------------


def _symmetric(w: Floats, top: int) -> tuple[Floats, Bytes]:
    """Scales (n,) and codes (n, 32) in 0 .. top around a zero in their middle, which the peak's code 0 stretches to."""
    x = w.reshape(-1, 32)
    half = (top + 1) // 2
    d = _peaks(x, 1) / np.float32(-half)
    codes = x * reciprocal(d)[:, None]
    codes += np.float32(half + 0.5)
    np.minimum(codes, np.float32(top), out=codes)
    return d, codes.astype(np.uint8)


def _affine(w: Floats, top: int) -> tuple[Floats, Floats, Bytes]:
    """Scales (n,), minima (n,) and codes (n, 32) in 0 .. top."""
    x = w.reshape(-1, 32)
    low = x.min(axis=1)
    d = (x.max(axis=1) - low) / np.float32(top)
    codes = (x - low[:, None]) * reciprocal(d)[:, None]
    codes += np.float32(0.5)
    np.minimum(codes, np.float32(top), out=codes)
    return d, low, codes.astype(np.uint8)


def _q4_0(w: Floats) -> Bytes:
    d, q = _symmetric(w, 15)
    return np.hstack([_half_bytes(d), _low_nibbles(q)])


def _q4_1(w: Floats) -> Bytes:
    d, low, q = _affine(w, 15)
    return np.hstack([_half_bytes(d), _half_bytes(low), _low_nibbles(q)])


def _q5_0(w: Floats) -> Bytes:
    d, q = _symmetric(w, 31)
    return np.hstack([_half_bytes(d), _high_bits(q), _low_nibbles(q)])


def _q5_1(w: Floats) -> Bytes:
    d, low, q = _affine(w, 31)
    return np.hstack([_half_bytes(d), _half_bytes(low), _high_bits(q), _low_nibbles(q)])


def _q8_0(w: Floats) -> Bytes:
    x = w.reshape(-1, 32)
    d = np.abs(x).max(axis=1) / np.float32(127)
    codes = x * reciprocal(d)[:, None]
    codes += np.copysign(np.float32(0.5), codes)  # then cut: halves go away from zero
    return np.hstack([_half_bytes(d), codes.astype(np.int8).view(np.uint8)])


# -- the 256-element types, scales searched for ----------------------------------------------------------------------
# x is (block, n) as in fit.py, n counting the sub-blocks of all super-blocks; scales of scales are (n_super, 1)


def _columns(w: Floats, block: int) -> Floats:
    return np.ascontiguousarray(w.reshape(-1, block).T)


def _rows(codes: Floats) -> Bytes:
    """Codes (block, n), none negative -> (n_super, 256)."""
    return np.ascontiguousarray(codes.astype(np.uint8).T).reshape(-1, SUPER)


def _rounded(x: Floats, scale: Floats, low: int, high: int) -> Floats:
    """x over each column's scale, rounded into low .. high; overwrites x."""
    x *= reciprocal(scale)
    np.rint(x, out=x)
    return np.clip(x, low, high, out=x)


def _scale_codes(values: Floats, low: int, high: int) -> tuple[Floats, NDArray[np.float16]]:
    """Integer codes (n_super, subs) for the scales of the sub-blocks, and what one step is worth (n_super,)."""
    step = (_peaks(values, 1) / np.float32(low if low else high)).astype(np.float16)
    codes = np.rint(values * reciprocal(step.astype(np.float32))[:, None])
    return np.clip(codes, low, high), step


def _symmetric_k(w: Floats, half: int, high: int, candidates: Sequence[float]) -> tuple[Bytes, Floats, Bytes]:
    """Codes (n_super, 256) in 0 .. 2 half - 1, scale codes (n_super, 16) in -high - 1 .. high, their step (n_super, 2).

    Sub-blocks have 16 elements.
    """
    x = _columns(w, 16)
    scale = fit_symmetric(x, half, candidates).reshape(-1, 16)
    codes, step = _scale_codes(scale, -high - 1, high)
    q = _rounded(x, (codes * step.astype(np.float32)[:, None]).reshape(-1), -half, half - 1)
    q += half
    return _rows(q), codes, step.view(np.uint8).reshape(-1, 2)


def _affine_k(
    w: Floats, block: int, top: int, high: int, candidates: Sequence[float]
) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """Codes (n_super, 256) in 0 .. top, scale and depth codes (n_super, 256 / block) in 0 .. high, and the steps of
    both (n_super, 4)."""
    x = _columns(w, block)
    scale, depth = (values.reshape(-1, SUPER // block) for values in fit_affine(x, top, candidates))
    scales, step = _scale_codes(scale, 0, high)
    depths, depth_step = _scale_codes(depth, 0, high)
    x += (depths * depth_step.astype(np.float32)[:, None]).reshape(-1)
    q = _rounded(x, (scales * step.astype(np.float32)[:, None]).reshape(-1), 0, top)
    steps = np.stack([step, depth_step], axis=1).view(np.uint8)
    return _rows(q), scales.astype(np.uint8), depths.astype(np.uint8), steps


def _packed_scales(scales: Bytes, depths: Bytes) -> Bytes:
    """Two (n_super, 8) of 6 bit -> (n_super, 12), as Q4_K and Q5_K hold them."""
    low, high = np.uint8(0x0F), np.uint8(0x30)
    return np.hstack(
        [
            scales[:, :4] | (scales[:, 4:] & high) << np.uint8(2),
            depths[:, :4] | (depths[:, 4:] & high) << np.uint8(2),
            (scales[:, 4:] & low) | (depths[:, 4:] & low) << np.uint8(4),
        ]
    )


def _q2_k(w: Floats) -> Bytes:
    q, scales, depths, steps = _affine_k(w, 16, 3, 15, _Q2_CANDIDATES)
    return np.hstack([scales | depths << np.uint8(4), _joined(q.reshape(-1, 2, 4, 32), 2).reshape(-1, 64), steps])


def _q3_k(w: Floats) -> Bytes:
    q, codes, step = _symmetric_k(w, 4, 31, _Q3_CANDIDATES)
    scales = (codes + 32).astype(np.uint8)
    low_scales = _joined((scales & np.uint8(0x0F)).reshape(-1, 2, 8), 4)
    high_scales = _joined((scales >> np.uint8(4)).reshape(-1, 4, 4), 2)
    high = np.packbits((q >> np.uint8(2)).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)
    low = _joined((q & np.uint8(3)).reshape(-1, 2, 4, 32), 2).reshape(-1, 64)
    return np.hstack([high, low, low_scales, high_scales, step])


def _q4_k(w: Floats) -> Bytes:
    q, scales, depths, steps = _affine_k(w, 32, 15, 63, _Q4_CANDIDATES)
    return np.hstack([steps, _packed_scales(scales, depths), _joined(q.reshape(-1, 4, 2, 32), 4).reshape(-1, 128)])


def _q5_k(w: Floats) -> Bytes:
    q, scales, depths, steps = _affine_k(w, 32, 31, 63, _Q5_CANDIDATES)
    high = np.packbits((q >> np.uint8(4)).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)
    low = _joined((q & np.uint8(0x0F)).reshape(-1, 4, 2, 32), 4).reshape(-1, 128)
    return np.hstack([steps, _packed_scales(scales, depths), high, low])


def _q6_k(w: Floats) -> Bytes:
    q, codes, step = _symmetric_k(w, 32, 127, _Q6_CANDIDATES)
    low = _joined((q & np.uint8(0x0F)).reshape(-1, 2, 2, 64), 4).reshape(-1, 128)
    high = _joined((q >> np.uint8(4)).reshape(-1, 2, 4, 32), 2).reshape(-1, 64)
    return np.hstack([low, high, codes.astype(np.int8).view(np.uint8), step])


# what a block's peak may become, around the end of the codes' range: below it all entries fit, above it the peak is cut
_Q2_CANDIDATES = np.linspace(2.4, 3.6, 9).tolist()
_Q3_CANDIDATES = np.linspace(3, 5, 9).tolist()
_Q4_CANDIDATES = np.linspace(14, 16, 9).tolist()
_Q5_CANDIDATES = np.linspace(30, 32, 9).tolist()
_Q6_CANDIDATES = np.linspace(31, 33, 9).tolist()

ENCODERS: dict[str, Encoder] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
