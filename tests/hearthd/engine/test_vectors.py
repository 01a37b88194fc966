from __future__ import annotations

import numpy as np
import pytest

from hearthd.engine.frames import Embed
from hearthd.engine.vectors import NonFiniteVector, answer, finished

VECTORS = np.array([[3, 4, 12], [0, 0, 0]], np.float32)


def test_vectors_get_length_one_and_zeros_stay() -> None:
    expected = np.array([[3 / 13, 4 / 13, 12 / 13], [0, 0, 0]])
    np.testing.assert_allclose(finished(VECTORS, normalize=True, dimensions=0), expected, rtol=1e-6)


@pytest.mark.parametrize("dimensions", [0, 3, 4, -1])
def test_dimensions_that_cut_nothing_are_ignored(dimensions: int) -> None:
    np.testing.assert_array_equal(finished(VECTORS, normalize=False, dimensions=dimensions), VECTORS)


def test_a_cut_vector_is_normalised_again() -> None:
    np.testing.assert_allclose(finished(VECTORS, normalize=True, dimensions=2)[0], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(NonFiniteVector, match="embedding contains NaN or Inf values"):
        finished(np.array([[1, value]], np.float32), normalize=False, dimensions=0)


def test_huge_values_are_normalised_without_overflow() -> None:
    np.testing.assert_allclose(
        finished(np.full((1, 4), 3e38, np.float32), normalize=True, dimensions=0), [[0.5] * 4], rtol=1e-6
    )


def test_the_answer_holds_the_values_in_little_endian_bytes() -> None:
    frame = answer(Embed(7, ["a", "b"], normalize=False, dimensions=2), VECTORS, 5, 9)
    assert (frame.id, frame.size, frame.prompt_count, frame.prompt_ns) == (7, 2, 5, 9)
    assert np.frombuffer(frame.vectors, "<f4").tolist() == [3, 4, 0, 0]
