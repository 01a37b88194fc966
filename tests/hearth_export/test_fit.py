from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hearth_export.fit import fit_affine, fit_symmetric

Floats = NDArray[np.float32]


def columns(generator: np.random.Generator, low: int, high: int, num: int = 50) -> Floats:
    """Integers (32, num) of which each column holds both ends."""
    q = generator.integers(low, high + 1, (32, num)).astype(np.float32)
    q[0], q[1] = low, high
    return q


def weighted_error(x: Floats, rebuilt: Floats) -> float:
    return float((np.abs(x) * np.square(x - rebuilt)).sum())


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_on_a_symmetric_grid_give_its_scale_with_its_sign(sign: int) -> None:
    generator = np.random.default_rng(1)
    scale = sign * generator.uniform(0.001, 2, 50).astype(np.float32)
    found = fit_symmetric(columns(generator, -8, 7) * scale, 8, [7.5, 8, 8.5])
    np.testing.assert_allclose(found, scale, rtol=1e-5)


def test_weights_on_an_affine_grid_give_its_scale_and_depth() -> None:
    generator = np.random.default_rng(2)
    scale, depth = (generator.uniform(0.001, 2, 50).astype(np.float32) for _ in range(2))
    found = fit_affine(columns(generator, 0, 15) * scale - depth, 15, [14.5, 15, 15.5])
    np.testing.assert_allclose(found[0], scale, rtol=1e-4)
    np.testing.assert_allclose(found[1], depth, rtol=1e-3, atol=1e-5)


def test_weights_above_zero_are_reached_without_a_negative_depth() -> None:
    x = np.random.default_rng(3).uniform(1, 2, (32, 200)).astype(np.float32)
    scale, depth = fit_affine(x, 15, [14, 15, 16])
    assert (depth >= 0).all()
    assert (depth == 0).any()
    rebuilt = np.clip(np.rint((x + depth) / scale), 0, 15) * scale - depth
    assert np.abs(rebuilt - x).max() < 0.15  # about a step


def test_more_candidates_never_fit_worse() -> None:
    x = np.random.default_rng(4).standard_t(4, (16, 400)).astype(np.float32)
    errors = [best_error(x, candidates) for candidates in ([8.0], [8.0, 7.5], [8.0, 7.5, 8.5, 7.0])]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.95 * errors[0]


def best_error(x: Floats, candidates: list[float]) -> float:
    scale = fit_symmetric(x, 8, candidates)
    return weighted_error(x, np.clip(np.rint(x / scale), -8, 7) * scale)


def test_columns_of_zeros_have_the_scale_zero() -> None:
    x = np.zeros((32, 3), np.float32)
    assert (fit_symmetric(x, 8, [8]) == 0).all()
    assert [values.tolist() for values in fit_affine(x, 15, [15])] == [[0, 0, 0], [0, 0, 0]]


def test_column_of_one_negative_value_is_all_depth() -> None:
    scale, depth = fit_affine(np.full((32, 1), -3, np.float32), 15, [15])
    assert (scale[0], depth[0]) == (0, 3)
