"""The IQ types with codebooks: an index stands for eight or four values at once.

Layouts: the block structs of ggml-common.h and their `dequantize_row_*` in ggml-quants.c. Types of two and three bits
store magnitudes in the codebook and signs apart; eight of either are looked up as one 64 bit word.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from hearth_export.blocks import Blocks, Bytes, Floats, finish, half, nibbles, split
from hearth_export.iquant_grids import grid

Words = NDArray[np.uint64]
Indices = NDArray[np.uint16]

_SEVEN_BITS = np.arange(0, 28, 7, dtype=np.uint32)
_THREE_BITS = np.arange(0, 12, 3, dtype=np.uint16)


# -- codebooks and signs, looked up ----------------------------------------------------------------------------------


@functools.cache
def _words(name: str) -> Words:
    """A codebook of vectors of eight, a vector a word."""
    words: Words = grid(name).view(np.uint64)[:, 0]
    return words


@functools.cache
def _sign_words() -> Words:
    """The bits of a byte as bytes of a word: 255 where a value is negative."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    words: Words = (bits * np.uint8(255)).view(np.uint64)[:, 0]
    return words


@functools.cache
def _even_sign_words() -> Words:
    """As `_sign_words` of seven bits; the eighth makes the number of negative values even."""
    seven = np.arange(128, dtype=np.uint8)
    odd: Bytes = np.unpackbits(seven[:, None], axis=1).sum(axis=1, dtype=np.uint8) & np.uint8(1)
    return _sign_words()[seven | odd << np.uint8(7)]


def _signed(magnitudes: Words, signs: Words) -> Bytes:
    """8 bit codes around 128, eight a word."""
    codes = (magnitudes ^ signs).view(np.uint8)
    codes -= (signs ^ np.uint64(0x8080808080808080)).view(np.uint8)
    return codes


def _u16(b: Bytes, start: int, stop: int) -> Indices:
    """Bytes start..stop of every block as numbers: (rows, blocks, n)."""
    return np.ascontiguousarray(b[:, :, start:stop]).view(np.uint16)


def _u32(b: Bytes, start: int, stop: int) -> NDArray[np.uint32]:
    return np.ascontiguousarray(b[:, :, start:stop]).view(np.uint32)


def _interleaved(packed: Bytes) -> Bytes:
    """(rows, blocks, n) -> (rows, blocks, 2 n): low and high nibble of each byte in turn."""
    return nibbles(packed[..., None].reshape(packed.shape[0], -1, 1)).reshape(*packed.shape[:2], -1)


def _scale(d: Floats, numbers: NDArray[np.integer], first: float, step: float) -> Floats:
    """d * (first + step * number), exact in float32 for numbers of four bits."""
    return d[:, :, None] * (np.float32(first) + np.float32(step) * numbers.astype(np.float32))


def _nine_bits(low: Bytes, high: Bytes) -> Indices:
    """Indices of eight bits from `low`, (rows, blocks, 8 n), and a ninth from the bits of `high`, (rows, blocks, n)."""
    bits = np.unpackbits(high, axis=2, bitorder="little")
    return low | bits.astype(np.uint16) << np.uint16(8)


# -- two bits --------------------------------------------------------------------------------------------------------


def iq2_xxs(raw: Bytes) -> Blocks:
    """Groups of 32: four indices; four times seven signs, and a scale of four bits."""
    b = split(raw, 66)
    groups = np.ascontiguousarray(b[:, :, 2:]).reshape(*b.shape[:2], 8, 8)
    high = groups[..., 4:].view(np.uint32)  # (rows, blocks, 8, 1)
    signs = _even_sign_words()[high >> _SEVEN_BITS & np.uint32(127)]
    codes = _signed(_words("IQ2_XXS")[groups[..., :4]], signs)
    return finish(codes, 8, _scale(half(b, 0), high[..., 0] >> np.uint32(28), 0.125, 0.25), None, 32)


def iq2_xs(raw: Bytes) -> Blocks:
    """Nine bits of index and seven of signs in a word, a scale of four bits for 16 values."""
    b = split(raw, 74)
    packed = _u16(b, 2, 66)
    codes = _signed(
        _words("IQ2_XS")[packed & np.uint16(511)],
        _even_sign_words()[packed >> np.uint16(9)],
    )
    return finish(codes, 8, _scale(half(b, 0), _interleaved(b[:, :, 66:]), 0.125, 0.25), None, 16)


def iq2_s(raw: Bytes) -> Blocks:
    """Ten bits of index, whole bytes of signs, a scale of four bits for 16 values."""
    b = split(raw, 82)
    high = (b[:, :, 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & np.uint8(3)  # (rows, blocks, 8, 4)
    indices = b[:, :, 2:34] | high.reshape(*b.shape[:2], 32).astype(np.uint16) << np.uint16(8)
    codes = _signed(_words("IQ2_S")[indices], _sign_words()[b[:, :, 34:66]])
    return finish(codes, 8, _scale(half(b, 0), _interleaved(b[:, :, 74:]), 0.125, 0.25), None, 16)


# -- three bits ------------------------------------------------------------------------------------------------------


def iq3_xxs(raw: Bytes) -> Blocks:
    """Groups of 32: eight indices of four values each; four times seven signs, and a scale of four bits."""
    b = split(raw, 98)
    high = _u32(b, 66, 98)  # (rows, blocks, 8)
    signs = _even_sign_words()[high[..., None] >> _SEVEN_BITS & np.uint32(127)]
    magnitudes = grid("IQ3_XXS").view(np.uint32)[b[:, :, 2:66], 0].view(np.uint64)
    codes = _signed(magnitudes.reshape(signs.shape), signs)
    return finish(codes, 8, _scale(half(b, 0), high >> np.uint32(28), 0.25, 0.5), None, 32)


@functools.cache
def _odd_codes() -> NDArray[np.uint32]:
    """IQ3_S's magnitudes 1, 3 .. 15 as the codes 8 .. 15: 2 (code - 8) + 1."""
    return (grid("IQ3_S").view(np.uint8) // np.uint8(2) + np.uint8(8)).view(np.uint32)[:, 0]


def iq3_s(raw: Bytes) -> Blocks:
    """Nine bits of index, whole bytes of signs, a scale of four bits for 32 values.

    All values are odd, which makes a grid of 16 steps around half a step. 15 less a code is the value negated.
    """
    b = split(raw, 110)
    magnitudes = _odd_codes()[_nine_bits(b[:, :, 2:66], b[:, :, 66:74])].view(np.uint64)
    codes = magnitudes ^ (_sign_words()[b[:, :, 74:106]] & np.uint64(0x0F0F0F0F0F0F0F0F))
    offset = _scale(half(b, 0), _interleaved(b[:, :, 106:]), 1, 2)
    return finish(codes.view(np.uint8), 4, 2 * offset, offset, 32)


# -- one bit ---------------------------------------------------------------------------------------------------------


@functools.cache
def _ternary_codes(centre: int, step: int) -> Words:
    """IQ1's values -1, 0, 1 as centre - step, centre, centre + step."""
    return (grid("IQ1_S").astype(np.int16) * step + centre).astype(np.uint8).view(np.uint64)[:, 0]


def iq1_s(raw: Bytes) -> Blocks:
    """Groups of 32: eleven bits of index, a scale of three bits, and the sign of an eighth that is added to all."""
    b = split(raw, 50)
    high = _u16(b, 34, 50)  # (rows, blocks, 8)
    more = (high[..., None] >> _THREE_BITS & np.uint16(7)).reshape(*b.shape[:2], 32)
    codes = _ternary_codes(8, 1)[b[:, :, 2:34] | more << np.uint16(8)]
    scale = _scale(half(b, 0), high >> np.uint16(12) & np.uint16(7), 1, 2)
    eighth = np.where(high >> np.uint16(15), np.float32(-0.125), np.float32(0.125))
    return finish(codes.view(np.uint8), 4, scale, scale * eighth, 32)


def iq1_m(raw: Bytes) -> Blocks:
    """Eleven bits of index, the sign of an eighth for each eight values, and a scale of three bits for 16.

    Codes are eighths: 8 times the value, 1 more or less. The block's own scale is spread over the top nibbles of the
    last eight bytes.
    """
    b = split(raw, 56)
    packed = _u16(b, 48, 56)  # (rows, blocks, 4)
    nibble = packed >> np.uint16(12) << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(nibble, axis=2).view(np.float16).astype(np.float32)
    scale = _scale(d, (packed[..., None] >> _THREE_BITS & np.uint16(7)).reshape(*b.shape[:2], 16), 0.125, 0.25)
    high = _interleaved(b[:, :, 32:48])  # (rows, blocks, 32)
    indices = b[:, :, :32] | (high & np.uint8(7)).astype(np.uint16) << np.uint16(8)
    codes = _ternary_codes(128, 8)[indices].view(np.uint8).reshape(*indices.shape, 8)
    codes += (1 - (high >> np.uint8(3) & np.uint8(1)) * np.uint8(2))[..., None]
    return finish(codes, 8, scale, None, 16)
