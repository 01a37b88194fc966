"""How a matrix is held in the graph: which codes, scales and zero points stand for its weights.

ONNX Runtime's MatMulNBits computes x @ W.T from integer codes with one float scale a block and, at most, an integer
zero point. A block type without an offset fits that exactly. A type with one (W = (q - centre) scale + offset) is held
in one of the ways of `Holder`; which one, `AFFINE_HOLDERS` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_export.ggml import Blocks, Bytes, Floats, dequantize, quantize_rows
from hearthd import goals


class Holder(StrEnum):
    """What stands for a matrix."""

    EXACT = "exact"  # symmetric codes, nothing else
    AUGAP = "augap"  # integer zero points; extra columns times the block means of x hold the rest of each offset
    OFFSET = "off"  # symmetric codes, plus block sums of x times a float matrix of offsets
    INT8 = "q8s"  # symmetric 8 bit, each block's codes stretched so that its offset lands on the grid
    FLOAT = "f32"  # no codes at all: float32 weights


class Goal(StrEnum):
    """What a conversion optimises for where a type can be held in more than one way."""

    BYTES = goals.BYTES
    FIDELITY = goals.FIDELITY
    PREFILL = goals.PREFILL
    FLOAT = goals.FLOAT  # float32 weights and arithmetic, whatever the block type: a reference


AFFINE_HOLDERS = {Goal.BYTES: Holder.AUGAP, Goal.FIDELITY: Holder.OFFSET, Goal.PREFILL: Holder.INT8}


def choose(affine: bool, goal: Goal) -> Holder:
    """The holder of a matrix with (`affine`) or without offsets."""
    if goal is Goal.FLOAT:
        return Holder.FLOAT
    return AFFINE_HOLDERS[goal] if affine else Holder.EXACT


@dataclass(frozen=True, slots=True)
class Layout:
    """The bytes of one row of a held matrix, known before any weight is read."""

    holder: Holder
    bits: int  # of a stored code: 4 or 8; 32 where weights are floats
    block: int  # 1 where weights are floats
    num_inputs: int  # K of the matrix itself

    @property
    def num_offsets(self) -> int:
        """Blocks of a row of the matrix itself, so offsets of a row where it has any."""
        return self.num_inputs // self.block

    @property
    def num_columns(self) -> int:
        """K as MatMulNBits sees it."""
        return self.num_inputs + (self.num_offsets if self.holder is Holder.AUGAP else 0)

    @property
    def num_blocks(self) -> int:
        return -(-self.num_columns // self.block)

    @property
    def code_bytes(self) -> int:
        return self.num_blocks * self.block * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        return 0 if self.holder is Holder.FLOAT else self.num_blocks * 4

    @property
    def zero_point_bytes(self) -> int:
        return -(-self.num_blocks * self.bits // 8) if self.holder is Holder.AUGAP else 0

    @property
    def offset_bytes(self) -> int:
        return self.num_offsets * 4 if self.holder is Holder.OFFSET else 0


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Rows as they go into the data file."""

    codes: Bytes  # (rows, code_bytes): float32 weights where they are held so, without scales
    scales: Floats | None = None  # (rows, num_blocks)
    zero_points: Bytes | None = None  # (rows, zero_point_bytes)
    offsets: Floats | None = None  # (rows, num_offsets), times block: they multiply block means


def layout_of(holder: Holder, bits: int, block: int, num_inputs: int) -> Layout:
    """The layout of a matrix whose type unpacks to `bits` wide codes in blocks of `block`."""
    if holder is Holder.FLOAT:
        return float_layout(num_inputs)
    return Layout(holder, 8 if holder is Holder.INT8 else bits, block, num_inputs)


def float_layout(num_inputs: int) -> Layout:
    """The layout of a matrix of float32 weights."""
    return Layout(Holder.FLOAT, 32, 1, num_inputs)


def common_layout(layouts: Iterable[Layout]) -> Layout:
    """The one symmetric layout that holds what all of `layouts` (of one width, without AUGAP and OFFSET) hold."""
    first, *others = layouts
    for layout in others:
        holder = first.holder if first.holder is layout.holder else Holder.INT8
        bits = 8 if holder is Holder.INT8 else max(first.bits, layout.bits)
        first = Layout(holder, bits, min(first.block, layout.block), first.num_inputs)
    return first


def pack_floats(w: Floats) -> PackedRows:
    """The rows of `w` (rows, K) as they are."""
    return PackedRows(np.ascontiguousarray(w, np.float32).view(np.uint8))


def interleaved(even: PackedRows, odd: PackedRows) -> PackedRows:
    """A row of `even`, a row of `odd`, and so on."""

    def woven(a: NDArray[Any] | None, b: NDArray[Any] | None) -> Any:
        if a is None or b is None:
            return None
        return np.stack([a, b], axis=1).reshape(2 * len(a), -1)

    return PackedRows(
        woven(even.codes, odd.codes),
        woven(even.scales, odd.scales),
        woven(even.zero_points, odd.zero_points),
        woven(even.offsets, odd.offsets),
    )


def pack(blocks: Blocks, layout: Layout) -> PackedRows:
    """The rows of `blocks`, held as `layout` says."""
    return _PACKERS[layout.holder](_widened(_split(blocks, layout.block), layout), layout)


def stretch(blocks: Blocks) -> Blocks:
    """The same weights on a symmetric 8 bit grid without offsets.

    Each block's codes are multiplied by the integer t in 1..14 for which the offset falls nearest to a multiple of
    scale / t, among those that fit 8 bit. Without an offset the codes only move to the 8 bit centre, which is exact.
    """
    if blocks.offset is None:
        return _widened_to(8, blocks)
    unit: Floats = np.where(blocks.scale == 0, np.float32(1), blocks.scale)
    factor, shift, fits = _stretches(_reach(blocks), unit, blocks.offset)
    # modulo 256: what a stretch fits lies in -127 .. 127
    middle = (shift + np.float32(128) - blocks.centre * factor).astype(np.int16).astype(np.uint8)
    codes = _grouped(blocks) * factor.astype(np.uint8)[..., None]
    codes += middle[..., None]
    scale: Floats = unit / factor
    without_grid = ~fits | (blocks.scale == 0)
    if without_grid.any():
        _round_to_nearest(blocks, without_grid, codes, scale)
    return Blocks(codes.reshape(blocks.q.shape), 128, scale, None, 8, blocks.block)


def _stretches(reach: Floats, unit: Floats, offset: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Factor and shift of the codes of each block, and where there are any; all (rows, blocks)."""
    factor, shift, error = np.ones_like(unit), np.zeros_like(unit), np.full_like(unit, np.inf)
    moved, size, extent = np.empty_like(unit), np.empty_like(unit), np.empty_like(unit)
    for t in range(1, 15):
        np.multiply(offset, np.float32(t), out=moved)
        moved /= unit
        np.rint(moved, out=moved)
        np.abs(moved, out=size)
        size += np.multiply(reach, np.float32(t), out=extent)
        better = size <= 127
        np.multiply(moved, unit, out=size)  # from here on what is missed
        size /= np.float32(t)
        size -= offset
        np.abs(size, out=size)
        better &= size < error
        for kept, value in ((factor, np.float32(t)), (shift, moved), (error, size)):
            np.copyto(kept, value, where=better)
    return factor, shift, np.isfinite(error)


def _reach(blocks: Blocks) -> Floats:
    """How far the codes of each block lie from the centre, at most: (rows, blocks)."""
    high = low = _grouped(blocks)
    while high.shape[-1] > 1:
        high = np.maximum(high[..., 0::2], high[..., 1::2])
        low = np.minimum(low[..., 0::2], low[..., 1::2])
    centre = np.float32(blocks.centre)
    return np.asarray(np.maximum(high[..., 0] - centre, centre - low[..., 0]), np.float32)


def means_error(blocks: Blocks) -> float:
    """What holding these offsets as `AUGAP` costs: the root mean square of what is lost, over that of the weights.

    Some 0.005 for 4 bit types, 0.02 to 0.03 for 2 bit ones, far above where blocks lie on one side of zero.
    """
    _, rest = _zero_points(blocks)
    lost = rest - dequantize(_held_means(rest, blocks.bits, blocks.block))[:, : rest.shape[1]]
    size = float(np.linalg.norm(dequantize(blocks)))
    return float(np.linalg.norm(lost)) * blocks.block**0.5 / size if size else 0.0


def _round_to_nearest(blocks: Blocks, where: NDArray[np.bool_], codes: Bytes, scale: Floats) -> None:
    """Blocks that no stretch fits (one-sided or flat ones) are requantized; codes (r, b, block) and scale change."""
    assert blocks.offset is not None
    w = (_grouped(blocks)[where].astype(np.float32) - blocks.centre) * blocks.scale[where][:, None]
    w += blocks.offset[where][:, None]
    largest = np.abs(w).max(-1)
    unit = np.where(largest == 0, np.float32(1), largest / 127)
    codes[where] = np.clip(np.rint(w / unit[:, None]) + 128, 0, 255).astype(np.uint8)
    scale[where] = unit


def _grouped(blocks: Blocks) -> Bytes:
    rows = blocks.q.shape[0]
    return blocks.q.reshape(rows, -1, blocks.block)


def _split(blocks: Blocks, block: int) -> Blocks:
    """The same weights in blocks of `block`, which divides theirs."""
    if blocks.block == block:
        return blocks
    times = blocks.block // block
    offset = None if blocks.offset is None else np.repeat(blocks.offset, times, axis=1)
    return replace(blocks, scale=np.repeat(blocks.scale, times, axis=1), offset=offset, block=block)


def _widened(blocks: Blocks, layout: Layout) -> Blocks:
    """Codes as wide as the layout stores them."""
    return blocks if layout.holder is Holder.INT8 else _widened_to(layout.bits, blocks)


def _widened_to(bits: int, blocks: Blocks) -> Blocks:
    """4 bit codes moved to the 8 bit centre where `bits` is 8; exact."""
    if blocks.bits == bits:
        return blocks
    centre = 1 << (bits - 1)
    return replace(blocks, q=blocks.q + np.uint8(centre - blocks.centre), centre=centre, bits=bits)


def _codes(q: Bytes, bits: int) -> Bytes:
    """Codes (rows, K) as stored: two to a byte, the earlier in the low half, where they have 4 bit."""
    if bits == 8:
        return q
    pairs = np.ascontiguousarray(q).view(np.uint16)
    return (pairs | pairs >> np.uint16(4)).astype(np.uint8)


def _pack_exact(blocks: Blocks, layout: Layout) -> PackedRows:
    assert blocks.offset is None
    return PackedRows(_codes(blocks.q, layout.bits), blocks.scale)


def _pack_int8(blocks: Blocks, layout: Layout) -> PackedRows:
    return _pack_exact(stretch(blocks), layout)


def _pack_offset(blocks: Blocks, layout: Layout) -> PackedRows:
    offsets = np.zeros_like(blocks.scale) if blocks.offset is None else blocks.offset
    return PackedRows(_codes(blocks.q, layout.bits), blocks.scale, offsets=offsets * np.float32(blocks.block))


def _zero_points(blocks: Blocks) -> tuple[Floats, Floats]:
    """Integer zero points (rows, blocks) as float32 and what they leave of the offsets."""
    offset = np.zeros_like(blocks.scale) if blocks.offset is None else blocks.offset
    unit = np.where(blocks.scale == 0, np.float32(1), blocks.scale)
    points = np.clip(np.rint(blocks.centre - offset / unit), 0, (1 << blocks.bits) - 1)
    return points, offset + (points - np.float32(blocks.centre)) * blocks.scale


def _held_means(rest: Floats, bits: int, block: int) -> Blocks:
    """What multiplies the block means, on a grid of its own; zeros fill the last block."""
    return quantize_rows(np.pad(rest, ((0, 0), (0, -rest.shape[1] % block))), bits, block)


def _pack_augap(blocks: Blocks, layout: Layout) -> PackedRows:
    """Columns K.. hold block * remainder: times the mean of x over the block, that is remainder times its sum."""
    points, rest = _zero_points(blocks)
    extra = _held_means(rest * np.float32(layout.block), layout.bits, layout.block)
    middle = np.full(extra.scale.shape, extra.centre, np.uint8)
    q = np.concatenate([blocks.q, extra.q], axis=1)
    zero_points = np.concatenate([points.astype(np.uint8), middle], axis=1)
    if layout.bits == 4 and zero_points.shape[1] % 2:
        zero_points = np.pad(zero_points, ((0, 0), (0, 1)))
    return PackedRows(
        _codes(q, layout.bits), np.concatenate([blocks.scale, extra.scale], axis=1), _codes(zero_points, layout.bits)
    )


_PACKERS = {
    Holder.EXACT: _pack_exact,
    Holder.AUGAP: _pack_augap,
    Holder.OFFSET: _pack_offset,
    Holder.INT8: _pack_int8,
}
