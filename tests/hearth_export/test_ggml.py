from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, Blocks, dequantize, float_rows, quantize_rows
from hearth_export.iquant_grids import grid
from tests.hearth_export.random_blocks import SCALES, dequantized, set_scale

AFFINE = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K", "IQ1_S", "IQ3_S")
EXACT_OFFSETS = ("IQ1_S", "IQ3_S")  # whose offsets are short fractions of the scales
HOLDERS = {
    "Q4_0": (4, 32),
    "Q4_1": (4, 32),
    "Q5_0": (8, 32),
    "Q5_1": (8, 32),
    "Q8_0": (8, 32),
    "Q2_K": (4, 16),
    "Q3_K": (4, 16),
    "Q4_K": (4, 32),
    "Q5_K": (8, 32),
    "Q6_K": (8, 16),
    "IQ4_NL": (8, 32),
    "IQ4_XS": (8, 32),
    "IQ1_S": (4, 32),
    "IQ1_M": (8, 16),
    "IQ2_XXS": (8, 32),
    "IQ2_XS": (8, 16),
    "IQ2_S": (8, 16),
    "IQ3_XXS": (8, 32),
    "IQ3_S": (4, 32),
    "TQ1_0": (4, 256),
    "TQ2_0": (4, 256),
    "Q1_0": (4, 128),
    "MXFP4": (8, 32),
    "NVFP4": (8, 16),
}


def random_rows(name: str, rows: int = 7, blocks: int = 5) -> NDArray[np.uint8]:
    """Random block bytes whose scales lie in 2**-9 .. 2**-1, either sign where the type has one."""
    rng = np.random.default_rng(sum(map(ord, name)))
    raw = rng.integers(0, 256, (rows, blocks, BLOCK_TYPES[name].num_bytes), np.uint8)
    for at in SCALES[name][1:]:
        raw[:, :, at : at + 2] = random_scales(rng, (rows, blocks)).astype(np.float16)[:, :, None].view(np.uint8)
    set_scale(name, raw, random_scales(rng, (rows, blocks)))
    return raw.reshape(rows, -1)


def random_scales(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    magnitudes = np.exp2(rng.uniform(-9, -1, shape))
    return np.asarray(magnitudes * rng.choice([-1, 1], shape), np.float64)


@pytest.mark.parametrize("name", [name for name in SCALES if name not in AFFINE])
def test_symmetric_type_is_bit_identical_to_the_reference(name: str) -> None:
    raw = random_rows(name)
    np.testing.assert_array_equal(dequantize(BLOCK_TYPES[name].unpack(raw)), dequantized(name, raw))


@pytest.mark.parametrize("name", AFFINE)
def test_affine_type_equals_the_reference_within_one_rounding_of_the_offset(name: str) -> None:
    raw = random_rows(name)
    blocks = BLOCK_TYPES[name].unpack(raw)
    assert blocks.offset is not None
    limit = np.spacing(np.repeat(np.abs(blocks.offset), blocks.block, axis=1))
    expected = dequantized(name, raw)
    assert (np.abs(dequantize(blocks) - expected) <= np.maximum(limit, np.spacing(np.abs(expected)))).all()
    assert (dequantize(blocks) == expected).mean() > 0.9


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1", *EXACT_OFFSETS])
def test_affine_type_with_scales_of_like_size_is_bit_identical_to_the_reference(name: str) -> None:
    raw = random_rows(name)
    np.testing.assert_array_equal(dequantize(BLOCK_TYPES[name].unpack(raw)), dequantized(name, raw))


@pytest.mark.parametrize("name", HOLDERS)
def test_holder_has_the_bits_and_the_block_that_the_kernels_take(name: str) -> None:
    blocks = BLOCK_TYPES[name].unpack(random_rows(name))
    num_columns = 5 * BLOCK_TYPES[name].block
    assert (blocks.bits, blocks.block) == HOLDERS[name]
    assert blocks.centre == 1 << (blocks.bits - 1)
    assert blocks.q.shape == (7, num_columns)
    assert blocks.q.dtype == np.uint8
    assert blocks.q.max() < 1 << blocks.bits
    assert blocks.scale.shape == (7, num_columns // blocks.block)
    assert (blocks.offset is not None) == (name in AFFINE)


def test_every_size_and_id_agrees_with_the_gguf_package() -> None:
    for name, row in BLOCK_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert kind.value == row.type_id
        if name != "Q8_1":  # never stored in a file; the package counts its two halves as floats
            assert gguf.GGML_QUANT_SIZES[kind] == (row.block, row.num_bytes)


@pytest.mark.parametrize("name", sorted(set(BLOCK_TYPES) - set(SCALES) - FLOAT_TYPES))
def test_type_without_unpacker_is_refused_naming_it(name: str) -> None:
    raw = np.zeros((1, BLOCK_TYPES[name].num_bytes), np.uint8)
    with pytest.raises(UnsupportedModel, match=f"block type {name} cannot be converted.*Q8_0"):
        BLOCK_TYPES[name].unpack(raw)


@pytest.mark.parametrize("name", [name for name in SCALES if SCALES[name]])
def test_scale_that_is_not_finite_is_refused_naming_the_row(name: str) -> None:
    raw = random_rows(name)
    num_bytes = BLOCK_TYPES[name].num_bytes
    at = 2 * num_bytes + SCALES[name][0]
    raw[3, at : at + 2] = np.array([np.nan], np.float16).view(np.uint8)
    with pytest.raises(BadCheckpoint, match=f"row 3 block .*{name}.*nan"):
        BLOCK_TYPES[name].unpack(raw)


def test_scale_whose_pieces_make_an_infinity_is_refused_naming_the_row() -> None:
    raw = random_rows("IQ1_M").reshape(7, 5, -1)
    set_scale("IQ1_M", raw[3:4, 2:3], np.array([[np.inf]]))
    with pytest.raises(BadCheckpoint, match=r"row 3 block 32 of type IQ1_M has the scale inf"):
        BLOCK_TYPES["IQ1_M"].unpack(raw.reshape(7, -1))


def test_power_of_two_that_means_no_number_is_refused_naming_the_row() -> None:
    raw = random_rows("MXFP4").reshape(7, 5, -1)
    raw[3, 2, 0] = 255
    with pytest.raises(BadCheckpoint, match=r"row 3 block 2 of type MXFP4 has the scale nan"):
        BLOCK_TYPES["MXFP4"].unpack(raw.reshape(7, -1))


@pytest.mark.parametrize(("name", "powers"), [("MXFP4", 252), ("NVFP4", 256)])
def test_every_scale_of_one_byte_is_bit_identical_to_the_reference(name: str, powers: int) -> None:
    raw = np.random.default_rng(5).integers(0, 256, (powers, BLOCK_TYPES[name].num_bytes), np.uint8)
    raw[:, : 4 if name == "NVFP4" else 1] = np.arange(powers, dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(dequantize(BLOCK_TYPES[name].unpack(raw)), dequantized(name, raw))


@pytest.mark.parametrize("name", ["IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_codebook_is_that_of_the_gguf_package(name: str) -> None:
    kind = getattr(quants, name)
    kind.init_grid()
    np.testing.assert_array_equal(grid(name), kind.grid.reshape(kind.grid_shape))


@pytest.mark.parametrize("name", sorted(FLOAT_TYPES))
def test_float_rows_are_bit_identical_to_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 64)).astype(np.float32)
    raw = np.asarray(quants.quantize(values, gguf.GGMLQuantizationType[name])).view(np.uint8)
    np.testing.assert_array_equal(float_rows(raw, name), dequantized(name, raw).reshape(3, 64))


def test_float_rows_refuse_a_quantized_type() -> None:
    with pytest.raises(ValueError, match="Q4_0 is not a float type"):
        float_rows(np.zeros((1, 18), np.uint8), "Q4_0")


def test_float_type_unpacks_to_eight_bit_round_to_nearest() -> None:
    w = np.random.default_rng(2).normal(size=(4, 96)).astype(np.float32)
    blocks = BLOCK_TYPES["F32"].unpack(w.view(np.uint8))
    assert (blocks.bits, blocks.block, blocks.centre, blocks.offset) == (8, 32, 128, None)
    assert_within_half_a_step(blocks, w)


@pytest.mark.parametrize("block", [16, 32])
def test_eight_bit_rounding_is_off_by_at_most_half_a_step(block: int) -> None:
    w = np.random.default_rng(3).normal(size=(5, 128)).astype(np.float32)
    assert_within_half_a_step(quantize_rows(w, bits=8, block=block), w)


def assert_within_half_a_step(blocks: Blocks, w: NDArray[np.float32]) -> None:
    step = np.repeat(np.abs(blocks.scale), blocks.block, axis=1)
    assert (np.abs(dequantize(blocks) - w) <= step * 0.5001).all()


def test_four_bit_rounding_keeps_the_largest_entry_of_each_block() -> None:
    w = np.random.default_rng(4).normal(size=(5, 64)).astype(np.float32)
    blocks = quantize_rows(w, bits=4)
    assert (blocks.bits, blocks.centre) == (4, 8)
    assert blocks.q.max() <= 15
    largest = np.abs(w).reshape(5, 2, 32).argmax(axis=2)[:, :, None]
    kept = np.take_along_axis(dequantize(blocks).reshape(5, 2, 32), largest, axis=2)
    np.testing.assert_allclose(kept, np.take_along_axis(w.reshape(5, 2, 32), largest, axis=2), rtol=1e-6)


def test_rows_of_zeros_and_subnormals_quantize_to_almost_zero() -> None:
    w = np.zeros((2, 32), np.float32)
    w[1] = 1e-42
    np.testing.assert_allclose(dequantize(quantize_rows(w)), w, atol=1e-41)


def test_row_that_does_not_split_into_blocks_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="row of 40 values"):
        quantize_rows(np.zeros((1, 40), np.float32))


def test_bit_width_other_than_four_or_eight_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bit"):
        quantize_rows(np.zeros((1, 32), np.float32), bits=5)


def test_float_weight_that_is_not_finite_is_refused() -> None:
    w = np.zeros((2, 32), np.float32)
    w[1, 3] = np.inf
    with pytest.raises(BadCheckpoint, match="row 1 block 0 of type F32"):
        BLOCK_TYPES["F32"].unpack(w.view(np.uint8))
