"""The types of one, two or three values: Q1_0, TQ1_0 and TQ2_0. One scale for the whole block, and 4 bit codes.

Layouts: the block structs of ggml-common.h and their `dequantize_row_*` in ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from hearth_export.blocks import Blocks, Bytes, fields, finish, half, split

_CENTRE = np.uint8(8)
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]


def tq1_0(raw: Bytes) -> Blocks:
    """Five base 3 digits a byte, but four in the last four bytes."""
    b = split(raw, 54)
    shape = (*b.shape[:2], -1)
    digits = (_digits(b[:, :, :32], 5), _digits(b[:, :, 32:48], 5), _digits(b[:, :, 48:52], 4))
    codes = np.concatenate([part.reshape(shape) for part in digits], axis=2)
    return finish(codes + (_CENTRE - np.uint8(1)), 4, half(b, 52), None, 256)


def _digits(packed: Bytes, num: int) -> Bytes:
    """The digits 0, 1, 2 of bytes that hold fractions of 256 in base 3, first one first: (..., n) -> (..., num, n)."""
    moved = packed[..., None, :] * _POWERS[:num]  # modulo 256: the digits before are gone
    return ((moved.astype(np.uint16) * np.uint16(3)) >> np.uint16(8)).astype(np.uint8)


def tq2_0(raw: Bytes) -> Blocks:
    b = split(raw, 66)
    codes = fields(b[:, :, :64].reshape(*b.shape[:2], 2, 32), 2)
    return finish(codes + (_CENTRE - np.uint8(1)), 4, half(b, 64), None, 256)


def q1_0(raw: Bytes) -> Blocks:
    """A set bit is the scale, another the scale negated."""
    b = split(raw, 18)
    signs = np.unpackbits(b[:, :, 2:], axis=2, bitorder="little")
    return finish(signs * np.uint8(2) + (_CENTRE - np.uint8(1)), 4, half(b, 0), None, 128)
