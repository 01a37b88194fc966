from __future__ import annotations

import json

import numpy as np
import pytest

from hearthd.api.floats import vector_json


def as_json(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    return vector_json(memoryview(values.astype("<f4").tobytes()))


def test_the_text_gives_the_same_float32_again() -> None:
    generator = np.random.default_rng(1)
    bits = generator.integers(0, 1 << 32, 20000, np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], generator.standard_normal(5000, np.float32)])
    read = np.array(json.loads(as_json(values)), np.float32)
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(("value", "text"), [(0.5, b"0.5"), (-0.0, b"-0"), (1e-30, b"1.00000000e-30"), (3, b"3")])
def test_numbers_are_short_json(value: float, text: bytes) -> None:
    shown = as_json(np.array([value], np.float32))
    assert np.float32(json.loads(shown)[0]) == np.float32(value)
    assert len(shown) <= len(text) + 2


def test_no_value_is_an_empty_list() -> None:
    assert vector_json(memoryview(b"")) == b"[]"
