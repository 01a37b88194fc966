from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

from hearth_export.encode import ENCODERS, encode
from hearth_export.errors import UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, dequantize
from tests.hearth_export.random_blocks import QUANTIZABLE, dequantized

Floats = NDArray[np.float32]
QUANTIZED = [name for name in ENCODERS if name not in FLOAT_TYPES]

# root mean square error over that of the weights, of llama.cpp's own quantizer without an importance matrix
# (`ggml_quantize_chunk` of llama-cpp-python 0.3.36), on normal weights and on ones with Student's t of 4 degrees
REFERENCE_ERRORS = {
    "Q2_K": (0.2954, 0.3437),
    "Q3_K": (0.1509, 0.1832),
    "Q4_K": (0.0714, 0.0865),
    "Q5_K": (0.0361, 0.0438),
    "Q6_K": (0.0177, 0.0227),
}


def normal(rows: int = 64, columns: int = 2048) -> Floats:
    return np.random.default_rng(1).standard_normal((rows, columns), np.float32)


def heavy_tailed(rows: int = 256, columns: int = 2048) -> Floats:
    return np.random.default_rng(2).standard_t(4, (rows, columns)).astype(np.float32)


def relative_error(name: str, w: Floats) -> float:
    difference = dequantized(name, encode(name, w)) - w
    return float(np.sqrt(np.square(difference, dtype=np.float64).mean() / np.square(w, dtype=np.float64).mean()))


@pytest.mark.parametrize("name", QUANTIZABLE)
@pytest.mark.parametrize("width", ["float32", "float16"])  # weights that were float16 often have two equal peaks
def test_type_without_a_search_gives_the_bytes_of_the_reference(name: str, width: str) -> None:
    w = heavy_tailed(16).astype(width).astype(np.float32)
    expected = np.asarray(quants.quantize(w, gguf.GGMLQuantizationType[name])).view(np.uint8)
    np.testing.assert_array_equal(encode(name, w), expected)


@pytest.mark.parametrize("name", REFERENCE_ERRORS)
def test_searched_scales_are_as_good_as_the_reference_s(name: str) -> None:
    on_normal, on_heavy_tails = REFERENCE_ERRORS[name]
    assert relative_error(name, normal()) <= 1.05 * on_normal
    assert relative_error(name, heavy_tailed()) <= 1.05 * on_heavy_tails


@pytest.mark.parametrize("name", QUANTIZED)
def test_blocks_mean_the_same_to_both_readers(name: str) -> None:
    raw = encode(name, normal(8))
    ours, theirs = dequantize(BLOCK_TYPES[name].unpack(raw)), dequantized(name, raw)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert (ours == theirs).mean() > 0.9


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_weight_lies_where_it_was(name: str) -> None:
    """A single large weight in a row of zeros comes back in its own place, whatever that is."""
    w = np.zeros((256, 512), np.float32)
    places = np.arange(256), np.arange(256) * 2 + np.arange(256) % 2
    w[places] = 1
    found = dequantized(name, encode(name, w))
    assert (found.argmax(axis=1) == places[1]).all()
    np.testing.assert_allclose(found[places], 1, rtol=0.02)
    np.testing.assert_allclose(found[w == 0], 0, atol=0.02)


@pytest.mark.parametrize("name", QUANTIZED)
def test_rows_are_quantized_by_themselves(name: str) -> None:
    w = normal(4, 512)
    together = encode(name, w)
    np.testing.assert_array_equal(together, np.concatenate([encode(name, row[None]) for row in w]))


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-42, 1e-9])
def test_rows_of_nothing_stay_nothing(name: str, value: float) -> None:
    w = np.full((2, 256), value, np.float32)
    np.testing.assert_allclose(dequantized(name, encode(name, w)), w, atol=1e-8)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("low", [-3.0, 2.0])
def test_blocks_on_one_side_of_zero_keep_their_size(name: str, low: float) -> None:
    w = np.random.default_rng(3).uniform(low, low + 1, (8, 512)).astype(np.float32)
    assert relative_error(name, w) < 0.2


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in ("F32", "BF16")])
def test_weights_too_large_for_half_floats_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"weight 1e\+30 is too large for 16 bit floats.*BF16"):
        encode(name, np.full((1, 256), 1e30, np.float32))


def test_weights_that_would_round_to_infinity_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"3.40282e\+38 is too large for BF16"):
        encode("BF16", np.full((1, 32), np.finfo(np.float32).max, np.float32))


def test_floats_keep_their_sign_and_round_to_even() -> None:
    w = np.array([[0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)]], np.float32)
    assert encode("BF16", w).view(np.uint16).tolist() == [[0, 0x8000, 0x3F80, 0x3F82, 0xBF80]]
