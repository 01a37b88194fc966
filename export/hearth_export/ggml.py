"""ggml block types: how many bytes a block takes, and how its weights become integer codes with a scale.

Every unpacker yields codes whose zero is `1 << (bits - 1)`, the zero point that ONNX Runtime's MatMulNBits assumes when
none is given. Affine types (W = q d + m) move the middle of their range onto that zero, which keeps the offset small:
W = (q - middle) d + (m + middle d). Rows are always (rows, bytes) uint8 and memory is proportional to the rows passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hearth_export import fp4, iquants, ternary
from hearth_export.blocks import Blocks, Bytes, Floats, fields, finish, half, nibbles, split
from hearth_export.errors import BadCheckpoint, UnsupportedModel

__all__ = [
    "BLOCK_TYPES",
    "BLOCK_TYPES_BY_ID",
    "FLOAT_TYPES",
    "BlockType",
    "Blocks",
    "Bytes",
    "Floats",
    "dequantize",
    "float_rows",
    "quantize_rows",
]

# values of the non-linear 4 bit types, from `kvalues_iq4nl` in ggml's ggml-common.h
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_IQ4_CODES = (np.array(IQ4_VALUES, np.int16) + 128).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class BlockType:
    """One row of the table: `block` elements take `num_bytes` bytes."""

    name: str
    type_id: int
    block: int
    num_bytes: int
    unpacker: Callable[[Bytes], Blocks] | None = None

    def row_bytes(self, num_elements: int) -> int:
        """Bytes of a row; `num_elements` must be a multiple of `block`."""
        return num_elements // self.block * self.num_bytes

    def unpack(self, raw: Bytes) -> Blocks:
        """Codes and scales of the rows (rows, row_bytes). Equal to ggml's dequantization bit for bit, except that an
        offset whose exact value needs more than 24 bits is rounded once (half a unit in its last place).

        Raises UnsupportedModel for a type without an unpacker and BadCheckpoint where a scale is not finite.
        """
        if self.unpacker is None:
            raise UnsupportedModel(
                f"block type {self.name} cannot be converted: take the model in another quantization, "
                "for example Q4_K_M or Q8_0"
            )
        with np.errstate(invalid="ignore", over="ignore"):
            blocks = self.unpacker(raw)
        _refuse_non_finite(self.name, blocks)
        return blocks


def _refuse_non_finite(name: str, blocks: Blocks) -> None:
    for values in (blocks.scale, blocks.offset):
        if values is not None and not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise BadCheckpoint(
                f"row {row} block {column} of type {name} has the scale {values[row, column]}: the weights are damaged"
            )


def dequantize(blocks: Blocks) -> Floats:
    """The weights (rows, K) float32."""
    rows, num_columns = blocks.q.shape
    w = (blocks.q.astype(np.float32) - np.float32(blocks.centre)).reshape(rows, -1, blocks.block)
    w *= blocks.scale[:, :, None]
    if blocks.offset is not None:
        w += blocks.offset[:, :, None]
    return w.reshape(rows, num_columns)


def float_rows(raw: Bytes, type_name: str) -> Floats:
    """Rows (rows, K) float32 of the unquantized types F32, F16 and BF16; ValueError for another."""
    raw = np.ascontiguousarray(raw)
    if type_name == "F32":
        return raw.view(np.float32)
    if type_name == "F16":
        return _half_rows(raw.view(np.uint16))
    if type_name == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    raise ValueError(f"{type_name} is not a float type")


def _half_rows(bits: NDArray[np.uint16]) -> Floats:
    """What astype gives, three times as fast: exponent and mantissa move, and a factor mends the exponent's bias."""
    if ((bits & np.uint16(0x7C00)) == 0x7C00).any():  # infinities have an exponent of their own
        return bits.view(np.float16).astype(np.float32)
    wide = bits.astype(np.uint32)
    signs = (wide & np.uint32(0x8000)) << np.uint32(16)
    wide &= np.uint32(0x7FFF)
    wide <<= np.uint32(13)
    wide.view(np.float32)[...] *= np.float32(2.0**112)
    wide |= signs
    return wide.view(np.float32)


def quantize_rows(w: Floats, bits: int = 8, block: int = 32) -> Blocks:
    """Symmetric round-to-nearest of `w` (rows, K) to 4 or 8 bit; K must be a multiple of `block`.

    8 bit spans [-127, 127]. 4 bit lets the entry of largest magnitude take the code -8, so that no code is wasted; its
    scale is negative where that entry is positive.
    """
    rows, num_columns = w.shape
    if num_columns % block:
        raise UnsupportedModel(f"a row of {num_columns} values does not split into blocks of {block}")
    grouped = w.reshape(rows, -1, block)
    scale = _symmetric_scale(grouped, bits)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    inverse[~np.isfinite(inverse)] = 0  # a subnormal scale: the block is as good as zero
    centre = 1 << (bits - 1)
    codes = grouped * inverse[:, :, None]
    codes += np.float32(_ROUNDING + centre)
    q = codes.view(np.uint32).astype(np.uint8)
    if bits == 4:  # 8 steps to the other side of the largest entry are one too many
        np.minimum(q, np.uint8(15), out=q)
    return Blocks(q.reshape(rows, num_columns), centre, scale, None, bits, block)


_ROUNDING = 3 << 22  # a float32 of this size has no room for fractions: what is added is rounded, its low byte the code


def _symmetric_scale(grouped: Floats, bits: int) -> Floats:
    if bits == 8:
        return np.asarray(_largest(np.abs(grouped)) / np.float32(127), np.float32)
    if bits == 4:
        high, low = _largest(grouped), -_largest(-grouped)
        return np.asarray(np.where(high > -low, high, low) / np.float32(-8), np.float32)
    raise ValueError(f"{bits} bit codes are neither 4 nor 8")


def _largest(grouped: Floats) -> Floats:
    """The largest of each block, (rows, blocks, block) -> (rows, blocks); pairs at a time are quicker than max()."""
    found = grouped
    while found.shape[-1] > 1:
        found = np.maximum(found[..., 0::2], found[..., 1::2])
    return found[..., 0]


def _high_bits(b: Bytes, at: int) -> Bytes:
    """The fifth bits of a Q5_0 or Q5_1 block: (rows, blocks, 32), 0 or 16."""
    return np.unpackbits(b[:, :, at : at + 4], axis=2, bitorder="little") << np.uint8(4)


# -- the 32-element types --------------------------------------------------------------------------------------------


def _q4_0(raw: Bytes) -> Blocks:
    b = split(raw, 18)
    return finish(nibbles(b[:, :, 2:]), 4, half(b, 0), None, 32)


def _q4_1(raw: Bytes) -> Blocks:
    b = split(raw, 20)
    d, m = half(b, 0), half(b, 2)
    return finish(nibbles(b[:, :, 4:]), 4, d, m + 8 * d, 32)


def _q5_0(raw: Bytes) -> Blocks:
    b = split(raw, 22)
    q = nibbles(b[:, :, 6:]) | _high_bits(b, 2)
    return finish(q + np.uint8(128 - 16), 8, half(b, 0), None, 32)


def _q5_1(raw: Bytes) -> Blocks:
    b = split(raw, 24)
    d, m = half(b, 0), half(b, 2)
    q = nibbles(b[:, :, 8:]) | _high_bits(b, 4)
    return finish(q + np.uint8(128 - 16), 8, d, m + 16 * d, 32)


def _q8_0(raw: Bytes) -> Blocks:
    b = split(raw, 34)
    return finish(b[:, :, 2:] ^ np.uint8(0x80), 8, half(b, 0), None, 32)


def _iq4_nl(raw: Bytes) -> Blocks:
    b = split(raw, 18)
    return finish(_IQ4_CODES.take(nibbles(b[:, :, 2:])), 8, half(b, 0), None, 32)


# -- the 256-element types -------------------------------------------------------------------------------------------


def _q2_k(raw: Bytes) -> Blocks:
    b = split(raw, 84)
    rows, num = b.shape[:2]
    scales, q = b[:, :, :16], fields(b[:, :, 16:80].reshape(rows, num, 2, 32), 2)
    scale = half(b, 80)[:, :, None] * (scales & np.uint8(0x0F)).astype(np.float32)
    low = half(b, 82)[:, :, None] * (scales >> np.uint8(4)).astype(np.float32)
    return finish(q + np.uint8(8 - 2), 4, scale, 2 * scale - low, 16)


def _q3_k(raw: Bytes) -> Blocks:
    b = split(raw, 110)
    rows, num = b.shape[:2]
    low = fields(b[:, :, 32:96].reshape(rows, num, 2, 32), 2).reshape(rows, num, 256)
    high = fields(b[:, :, :32], 1).reshape(rows, num, 256)  # a set bit means that 4 is not subtracted
    scale = half(b, 108)[:, :, None] * (_q3_k_scales(b[:, :, 96:108]).astype(np.float32) - 32)
    return finish((low | (high << np.uint8(2))) + np.uint8(8 - 4), 4, scale, None, 16)


def _q3_k_scales(packed: Bytes) -> Bytes:
    """(rows, blocks, 12) -> (rows, blocks, 16): 8 bytes hold the low nibbles, 4 bytes the two high bits."""
    low = nibbles(packed[:, :, :8])
    high = fields(packed[:, :, 8:], 2).reshape(low.shape)
    return low | (high << np.uint8(4))


def _k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """The 6 bit scales and minima of Q4_K and Q5_K: (rows, blocks, 12) -> two (rows, blocks, 8) float32."""
    first, second, rest = packed[:, :, 0:4], packed[:, :, 4:8], packed[:, :, 8:12]
    mask, high = np.uint8(0x3F), np.uint8(0x30)
    scales = np.concatenate([first & mask, (rest & np.uint8(0x0F)) | ((first >> np.uint8(2)) & high)], axis=2)
    minima = np.concatenate([second & mask, (rest >> np.uint8(4)) | ((second >> np.uint8(2)) & high)], axis=2)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q4_k(raw: Bytes) -> Blocks:
    b = split(raw, 144)
    rows, num = b.shape[:2]
    scales, minima = _k_scales(b[:, :, 4:16])
    scale, low = half(b, 0)[:, :, None] * scales, half(b, 2)[:, :, None] * minima
    return finish(fields(b[:, :, 16:].reshape(rows, num, 4, 32), 4), 4, scale, 8 * scale - low, 32)


def _q5_k(raw: Bytes) -> Blocks:
    b = split(raw, 176)
    rows, num = b.shape[:2]
    scales, minima = _k_scales(b[:, :, 4:16])
    scale, low = half(b, 0)[:, :, None] * scales, half(b, 2)[:, :, None] * minima
    q = fields(b[:, :, 48:].reshape(rows, num, 4, 32), 4).reshape(rows, num, 8, 32)
    q = (q | (fields(b[:, :, 16:48], 1) << np.uint8(4))) + np.uint8(128 - 16)
    return finish(q, 8, scale, 16 * scale - low, 32)


def _q6_k(raw: Bytes) -> Blocks:
    b = split(raw, 210)
    rows, num = b.shape[:2]
    low = fields(b[:, :, :128].reshape(rows, num, 2, 64), 4).reshape(rows, num, 256)
    high = fields(b[:, :, 128:192].reshape(rows, num, 2, 32), 2).reshape(rows, num, 256)
    scale = half(b, 208)[:, :, None] * b[:, :, 192:208].view(np.int8).astype(np.float32)
    return finish((low | (high << np.uint8(4))) + np.uint8(128 - 32), 8, scale, None, 16)


def _iq4_xs(raw: Bytes) -> Blocks:
    b = split(raw, 136)
    rows, num = b.shape[:2]
    low = fields(b[:, :, 4:8, None], 4).reshape(rows, num, 8)
    high = fields(b[:, :, 2:4, None], 2).reshape(rows, num, 8)
    scale = half(b, 0)[:, :, None] * ((low | (high << np.uint8(4))).astype(np.float32) - 32)
    return finish(_IQ4_CODES.take(fields(b[:, :, 8:].reshape(rows, num, 8, 16), 4)), 8, scale, None, 32)


def _rounded(type_name: str) -> Callable[[Bytes], Blocks]:
    return lambda raw: quantize_rows(float_rows(raw, type_name))


# ids and sizes: `enum ggml_type` in ggml.h and the block structs of ggml-common.h
_ROWS = (
    BlockType("F32", 0, 1, 4, _rounded("F32")),
    BlockType("F16", 1, 1, 2, _rounded("F16")),
    BlockType("Q4_0", 2, 32, 18, _q4_0),
    BlockType("Q4_1", 3, 32, 20, _q4_1),
    BlockType("Q5_0", 6, 32, 22, _q5_0),
    BlockType("Q5_1", 7, 32, 24, _q5_1),
    BlockType("Q8_0", 8, 32, 34, _q8_0),
    BlockType("Q8_1", 9, 32, 36),
    BlockType("Q2_K", 10, 256, 84, _q2_k),
    BlockType("Q3_K", 11, 256, 110, _q3_k),
    BlockType("Q4_K", 12, 256, 144, _q4_k),
    BlockType("Q5_K", 13, 256, 176, _q5_k),
    BlockType("Q6_K", 14, 256, 210, _q6_k),
    BlockType("Q8_K", 15, 256, 292),
    BlockType("IQ2_XXS", 16, 256, 66, iquants.iq2_xxs),
    BlockType("IQ2_XS", 17, 256, 74, iquants.iq2_xs),
    BlockType("IQ3_XXS", 18, 256, 98, iquants.iq3_xxs),
    BlockType("IQ1_S", 19, 256, 50, iquants.iq1_s),
    BlockType("IQ4_NL", 20, 32, 18, _iq4_nl),
    BlockType("IQ3_S", 21, 256, 110, iquants.iq3_s),
    BlockType("IQ2_S", 22, 256, 82, iquants.iq2_s),
    BlockType("IQ4_XS", 23, 256, 136, _iq4_xs),
    BlockType("I8", 24, 1, 1),
    BlockType("I16", 25, 1, 2),
    BlockType("I32", 26, 1, 4),
    BlockType("I64", 27, 1, 8),
    BlockType("F64", 28, 1, 8),
    BlockType("IQ1_M", 29, 256, 56, iquants.iq1_m),
    BlockType("BF16", 30, 1, 2, _rounded("BF16")),
    BlockType("TQ1_0", 34, 256, 54, ternary.tq1_0),
    BlockType("TQ2_0", 35, 256, 66, ternary.tq2_0),
    BlockType("MXFP4", 39, 32, 17, fp4.mxfp4),
    BlockType("NVFP4", 40, 64, 36, fp4.nvfp4),
    BlockType("Q1_0", 41, 128, 18, ternary.q1_0),
)
BLOCK_TYPES: dict[str, BlockType] = {row.name: row for row in _ROWS}
BLOCK_TYPES_BY_ID: dict[int, BlockType] = {row.type_id: row for row in _ROWS}
FLOAT_TYPES = frozenset({"F32", "F16", "BF16"})
