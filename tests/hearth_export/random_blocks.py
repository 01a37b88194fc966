"""Valid random blocks of any type that the exporter unpacks, also of those that the gguf package cannot quantize."""

from __future__ import annotations

import gguf
import numpy as np
from gguf import quants
from numpy.typing import NDArray

from hearth_export.ggml import BLOCK_TYPES

Floats = NDArray[np.float32]
QUANTIZABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # by the gguf package

# byte offsets of a block's float16 scale and, where it has one, of its minimum; () where the scale is stored otherwise
SCALES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "IQ1_S": (0,),
    "IQ1_M": (),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "Q1_0": (0,),
    "MXFP4": (),
    "NVFP4": (),
}
# an 8 bit float of 4 exponent and 3 mantissa bits, without a sign
_NORMAL_UE4M3 = [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)]
_UE4M3 = np.array([*(m / 512 for m in range(8)), *_NORMAL_UE4M3[:-1]])
# the minimum over the scale that puts zero in the middle of a block
_MIDDLES = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}


def random_weights(block_type: str, rows: int, columns: int, generator: np.random.Generator) -> NDArray[np.generic]:
    """Weights of about 1 / sqrt(columns): float32 (rows, columns) where gguf can quantize the type, else its bytes.

    Zeros of a type that the exporter does not unpack.
    """
    if block_type in QUANTIZABLE:
        return generator.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(columns))
    if block_type not in SCALES:
        return np.zeros((rows, BLOCK_TYPES[block_type].row_bytes(columns)), np.uint8)
    raw = random_bytes(block_type, rows, columns, generator)
    return scaled(block_type, raw, float(1 / (np.sqrt(columns) * dequantized(block_type, raw).std())))


def random_bytes(
    block_type: str, rows: int, columns: int, generator: np.random.Generator, *, one_sided: bool = False
) -> NDArray[np.uint8]:
    """Blocks with the scale 1, as (rows, bytes). With `one_sided`, affine blocks lie anywhere, not around zero."""
    row = BLOCK_TYPES[block_type]
    b = generator.integers(0, 256, (rows, columns // row.block, row.num_bytes), np.uint8)
    set_scale(block_type, b, np.ones(b.shape[:2]))
    if block_type in _MIDDLES:
        _set(b, SCALES[block_type][1], _MIDDLES[block_type])
        if not one_sided:
            _balance(block_type, b)
    return b.reshape(rows, -1)


def scaled(block_type: str, raw: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The same blocks with all weights times `factor`."""
    b = raw.reshape(raw.shape[0], -1, BLOCK_TYPES[block_type].num_bytes).copy()
    if not SCALES[block_type]:
        set_scale(block_type, b, np.full(b.shape[:2], factor))
    for at in SCALES[block_type]:
        half = np.ascontiguousarray(b[:, :, at : at + 2]).view(np.float16)
        b[:, :, at : at + 2] = (half * np.float16(factor)).view(np.uint8)
    return b.reshape(raw.shape)


def set_scale(block_type: str, b: NDArray[np.uint8], values: NDArray[np.floating]) -> None:
    """Gives the blocks (rows, blocks, bytes) the scales `values` (rows, blocks), or the nearest that the type has."""
    if block_type == "MXFP4":
        b[:, :, 0] = np.rint(np.log2(np.abs(values))) + 128
    elif block_type == "NVFP4":
        b[:, :, :4] = np.abs(_UE4M3 / 2 - np.abs(values)[..., None]).argmin(axis=-1)[..., None]
    elif block_type == "IQ1_M":  # a nibble of the scale on top of each of four words
        words = np.ascontiguousarray(b[:, :, 48:56]).view(np.uint16) & np.uint16(0x0FFF)
        halves = values.astype(np.float16).view(np.uint16)[..., None]
        nibbles = halves >> np.array([0, 4, 8, 12], np.uint16) & np.uint16(15)
        b[:, :, 48:56] = (words | nibbles << np.uint16(12)).view(np.uint8)
    else:
        at = SCALES[block_type][0]
        b[:, :, at : at + 2] = values.astype(np.float16)[..., None].view(np.uint8)


def dequantized(block_type: str, raw: NDArray[np.uint8]) -> Floats:
    """The gguf package's weights; of Q1_0, which it names but cannot read, those of ggml's dequantize_row_q1_0."""
    if block_type == "Q1_0":
        b = raw.reshape(raw.shape[0], -1, 18)
        d = np.ascontiguousarray(b[:, :, :2]).view(np.float16).astype(np.float32)
        bits = np.unpackbits(b[:, :, 2:], axis=2, bitorder="little")
        return np.where(bits == 1, d, -d).reshape(raw.shape[0], -1)
    return np.asarray(quants.dequantize(raw, gguf.GGMLQuantizationType[block_type]), np.float32)


def _set(b: NDArray[np.uint8], at: int, value: float) -> None:
    b[:, :, at : at + 2] = np.array([value], np.float16).view(np.uint8)


def _balance(block_type: str, b: NDArray[np.uint8]) -> None:
    """Gives every sub-block a minimum as large as its scale."""
    if block_type == "Q2_K":
        b[:, :, :16] = (b[:, :, :16] & 15) * 17
    elif block_type in ("Q4_K", "Q5_K"):
        b[:, :, 8:12] = b[:, :, 4:8]
        b[:, :, 12:16] = (b[:, :, 12:16] & 15) * 17
