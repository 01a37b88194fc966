"""Packed rows, read back entry by entry as ONNX Runtime's documentation of MatMulNBits defines them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hearth_export.ggml import Blocks, dequantize
from hearth_export.precision import (
    Goal,
    Holder,
    Layout,
    PackedRows,
    choose,
    common_layout,
    interleaved,
    layout_of,
    means_error,
    pack,
    stretch,
)

Floats = NDArray[np.float32]
SHAPES = [(4, 16), (4, 32), (8, 16), (8, 32)]
ROWS, NUM_BLOCKS = 6, 5


def random_blocks(bits: int, block: int, *, affine: bool, num_blocks: int = NUM_BLOCKS, seed: int = 1) -> Blocks:
    """Scales of either sign, some zero; offsets that put zero inside most blocks and outside some."""
    generator = np.random.default_rng(seed)
    centre = 1 << (bits - 1)
    q = generator.integers(0, 2 * centre, (ROWS, num_blocks * block)).astype(np.uint8)
    scale = generator.uniform(0.01, 0.03, (ROWS, num_blocks)) * generator.choice([-1, 1], (ROWS, num_blocks))
    scale[generator.random(scale.shape) < 0.1] = 0
    offset = generator.uniform(-centre, centre, scale.shape) * 0.02
    offset[generator.random(scale.shape) < 0.1] = 0.9  # far to one side
    return Blocks(
        q, centre, scale.astype(np.float32), offset.astype(np.float32) if affine else None, bits=bits, block=block
    )


def held(packed: PackedRows, layout: Layout) -> Floats:
    """(rows, num_columns): each code less its zero point, times its scale."""
    rows = len(packed.codes)
    assert packed.scales is not None
    w = np.zeros((rows, layout.num_columns), np.float32)
    for r in range(rows):
        for k in range(layout.num_columns):
            at = k // layout.block
            zero = 1 << (layout.bits - 1)
            if packed.zero_points is not None:
                zero = code(packed.zero_points[r], at, layout.bits)
            w[r, k] = (code(packed.codes[r], k, layout.bits) - zero) * packed.scales[r, at]
    return w


def code(row: NDArray[np.uint8], at: int, bits: int) -> int:
    return int(row[at]) if bits == 8 else int(row[at // 2]) >> (4 * (at % 2)) & 15


def weights(packed: PackedRows, layout: Layout) -> Floats:
    """(rows, K): what x is multiplied by in all, with each mean spread over its block."""
    columns = held(packed, layout)
    w = columns[:, : layout.num_inputs]
    means: Floats = columns[:, layout.num_inputs :] if packed.offsets is None else packed.offsets
    if means.size:
        w = w + np.repeat(means, layout.block, axis=1) / np.float32(layout.block)
    return w


def assert_sizes_are_as_planned(packed: PackedRows, layout: Layout) -> None:
    assert packed.codes.shape == (ROWS, layout.code_bytes)
    assert packed.scales is not None
    assert packed.scales.nbytes == ROWS * layout.scale_bytes
    assert (0 if packed.zero_points is None else packed.zero_points.nbytes) == ROWS * layout.zero_point_bytes
    assert (0 if packed.offsets is None else packed.offsets.nbytes) == ROWS * layout.offset_bytes


@pytest.mark.parametrize(("bits", "block"), SHAPES)
def test_exact_holder_gives_the_weights_back_bit_for_bit(bits: int, block: int) -> None:
    blocks = random_blocks(bits, block, affine=False)
    layout = layout_of(Holder.EXACT, bits, block, NUM_BLOCKS * block)
    packed = pack(blocks, layout)
    assert_sizes_are_as_planned(packed, layout)
    np.testing.assert_array_equal(weights(packed, layout), dequantize(blocks))


def test_four_bit_codes_stored_in_eight_give_the_weights_back_bit_for_bit() -> None:
    blocks = random_blocks(4, 32, affine=False)
    layout = Layout(Holder.EXACT, 8, 32, NUM_BLOCKS * 32)
    np.testing.assert_array_equal(weights(pack(blocks, layout), layout), dequantize(blocks))


@pytest.mark.parametrize(("bits", "block"), SHAPES)
def test_offset_holder_gives_the_weights_back_bit_for_bit(bits: int, block: int) -> None:
    blocks = random_blocks(bits, block, affine=True)
    layout = layout_of(Holder.OFFSET, bits, block, NUM_BLOCKS * block)
    packed = pack(blocks, layout)
    assert_sizes_are_as_planned(packed, layout)
    np.testing.assert_array_equal(weights(packed, layout), dequantize(blocks))


@pytest.mark.parametrize("num_blocks", [1, 4, 5, 16, 17, 33])
@pytest.mark.parametrize(("bits", "block"), SHAPES)
def test_block_means_give_the_weights_back_within_a_step_of_the_remainders(
    bits: int, block: int, num_blocks: int
) -> None:
    blocks = random_blocks(bits, block, affine=True, num_blocks=num_blocks)
    layout = layout_of(Holder.AUGAP, bits, block, num_blocks * block)
    packed = pack(blocks, layout)
    assert_sizes_are_as_planned(packed, layout)
    error = np.abs(weights(packed, layout) - dequantize(blocks)).max(1)
    assert (error <= largest_remainder(blocks) / ((1 << (bits - 1)) - 1) + 1e-6).all()


def largest_remainder(blocks: Blocks) -> Floats:
    """(rows,): the largest part of an offset that no integer zero point takes."""
    assert blocks.offset is not None
    found = np.zeros(ROWS, np.float32)
    for row, column in np.ndindex(*blocks.scale.shape):
        scale, offset = float(blocks.scale[row, column]), float(blocks.offset[row, column])
        rest = min(abs(offset + (zero - blocks.centre) * scale) for zero in range(1 << blocks.bits))
        found[row] = max(float(found[row]), rest)
    return found


@pytest.mark.parametrize(("bits", "block"), SHAPES)
def test_columns_of_the_means_beyond_the_last_block_are_zero(bits: int, block: int) -> None:
    layout = layout_of(Holder.AUGAP, bits, block, 3 * block)
    packed = pack(random_blocks(bits, block, affine=True, num_blocks=3), layout)
    spread = Layout(Holder.AUGAP, bits, block, layout.num_blocks * block)
    everything = held(packed, replace(spread, holder=Holder.EXACT))
    assert layout.num_blocks == 4
    assert not everything[:, layout.num_columns :].any()


@pytest.mark.parametrize("block", [16, 32])
def test_stretched_codes_give_the_weights_back_within_half_a_step_of_eight_bit(block: int) -> None:
    blocks = random_blocks(4, block, affine=True, num_blocks=40)
    layout = layout_of(Holder.INT8, 4, block, 40 * block)
    packed = pack(blocks, layout)
    assert_sizes_are_as_planned(packed, layout)
    want = dequantize(blocks).reshape(ROWS, 40, block)
    error = np.abs(weights(packed, layout).reshape(want.shape) - want).max(-1)
    limit = np.maximum(np.abs(blocks.scale), np.abs(want).max(-1) / 127) / 2
    assert (error <= limit + 1e-6).all()
    assert np.median(error[blocks.scale != 0] / np.abs(blocks.scale[blocks.scale != 0])) < 0.05


def test_stretching_without_offsets_is_exact() -> None:
    blocks = random_blocks(4, 32, affine=False)
    np.testing.assert_array_equal(dequantize(stretch(blocks)), dequantize(blocks))


def test_stretching_flat_blocks_keeps_their_value() -> None:
    blocks = random_blocks(4, 32, affine=True)
    flat = replace(blocks, scale=np.zeros_like(blocks.scale))
    np.testing.assert_allclose(dequantize(stretch(flat)), dequantize(flat), rtol=1e-6)


@pytest.mark.parametrize("holder", [Holder.AUGAP, Holder.OFFSET, Holder.INT8])
def test_rows_of_zeros_stay_zeros(holder: Holder) -> None:
    zeros = np.zeros((ROWS, 4), np.float32)
    blocks = Blocks(np.full((ROWS, 128), 3, np.uint8), 8, zeros, zeros, bits=4, block=32)
    layout = layout_of(holder, 4, 32, 128)
    assert not weights(pack(blocks, layout), layout).any()


def test_cost_of_holding_means_is_small_for_four_bits_and_large_for_one_sided_blocks() -> None:
    generator = np.random.default_rng(5)
    q = generator.integers(0, 16, (ROWS, 512)).astype(np.uint8)
    scale = generator.uniform(0.01, 0.02, (ROWS, 16)).astype(np.float32)
    centred = Blocks(q, 8, scale, generator.uniform(-0.05, 0.05, scale.shape).astype(np.float32), bits=4, block=32)
    assert means_error(centred) < 0.01
    assert means_error(replace(centred, offset=np.where(scale > 0.015, 5, -3).astype(np.float32))) > 0.02
    assert means_error(replace(centred, offset=None)) == 0
    assert means_error(replace(centred, scale=np.zeros_like(scale), offset=np.zeros_like(scale))) == 0


def test_goal_chooses_the_holder_of_affine_types_only() -> None:
    quantized = [goal for goal in Goal if goal is not Goal.FLOAT]
    assert {goal: choose(True, goal) for goal in quantized} == {
        Goal.BYTES: Holder.AUGAP,
        Goal.FIDELITY: Holder.OFFSET,
        Goal.PREFILL: Holder.INT8,
    }
    assert {choose(False, goal) for goal in quantized} == {Holder.EXACT}


def test_goal_float_holds_every_type_as_floats() -> None:
    assert {choose(affine, Goal.FLOAT) for affine in (False, True)} == {Holder.FLOAT}
    layout = layout_of(Holder.FLOAT, 4, 32, 96)
    assert (layout.code_bytes, layout.scale_bytes, layout.zero_point_bytes, layout.offset_bytes) == (384, 0, 0, 0)


def test_layout_of_blocks_of_16_holds_blocks_of_32_bit_for_bit() -> None:
    blocks = random_blocks(4, 32, affine=False)
    layout = layout_of(Holder.EXACT, 4, 16, NUM_BLOCKS * 32)
    np.testing.assert_array_equal(weights(pack(blocks, layout), layout), dequantize(blocks))


@pytest.mark.parametrize(
    ("layouts", "common"),
    [
        ([(Holder.EXACT, 4, 32), (Holder.EXACT, 4, 32)], (Holder.EXACT, 4, 32)),
        ([(Holder.EXACT, 4, 32), (Holder.EXACT, 8, 32)], (Holder.EXACT, 8, 32)),
        ([(Holder.EXACT, 4, 16), (Holder.EXACT, 4, 32)], (Holder.EXACT, 4, 16)),
        ([(Holder.EXACT, 4, 32), (Holder.INT8, 8, 16)], (Holder.INT8, 8, 16)),
        ([(Holder.FLOAT, 32, 1), (Holder.FLOAT, 32, 1)], (Holder.FLOAT, 32, 1)),
    ],
)
def test_common_layout_is_the_narrowest_that_holds_all(
    layouts: list[tuple[Holder, int, int]], common: tuple[Holder, int, int]
) -> None:
    for order in (layouts, layouts[::-1]):
        assert common_layout([Layout(*facts, 64) for facts in order]) == Layout(*common, 64)


def test_rows_of_two_matrices_alternate() -> None:
    even, odd = random_blocks(8, 32, affine=False), random_blocks(8, 32, affine=False, seed=2)
    layout = layout_of(Holder.EXACT, 8, 32, NUM_BLOCKS * 32)
    both = weights(interleaved(pack(even, layout), pack(odd, layout)), layout)
    np.testing.assert_array_equal(both[0::2], dequantize(even))
    np.testing.assert_array_equal(both[1::2], dequantize(odd))
