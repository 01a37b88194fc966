from __future__ import annotations

import math

import numpy as np
import pytest

from hearthd.engine.candidates import drawn

NEARLY_ONE = math.nextafter(1.0, 0.0)


def plain_drawn(shares: list[float], uniform: float) -> int:
    target, running = uniform * math.fsum(shares), 0.0
    for place, share in enumerate(shares):
        running += share
        if running > target:
            return place
    raise AssertionError(shares)


@pytest.mark.parametrize("size", [1, 3, 512, 4096, 4097, 9000])
def test_a_draw_falls_where_the_running_sum_passes_it(size: int) -> None:
    rng = np.random.default_rng(size)
    shares = rng.integers(0, 4, size).astype(np.float64)  # whole numbers: every sum is exact
    shares[size // 2] = 1
    for uniform in (*rng.random(40).tolist(), 0.0, 0.5):
        assert drawn(shares, uniform) == plain_drawn(shares.tolist(), uniform)


@pytest.mark.parametrize("size", [5, 5000])
@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, NEARLY_ONE])
def test_a_weight_of_zero_is_never_drawn(size: int, uniform: float) -> None:
    for alone in (0, 1, size // 2, size - 2, size - 1):
        shares = np.zeros(size, np.float32)
        shares[alone] = 1e-30
        assert drawn(shares, uniform) == alone


def test_the_largest_uniform_number_draws_the_last_weight_above_zero() -> None:
    shares = np.concatenate((np.full(3000, 1e-7, np.float32), np.zeros(6000, np.float32)))
    assert drawn(shares, NEARLY_ONE) == 2999
    assert drawn(shares, 0.0) == 0
