"""What int8 rounds away of activations, multiplied by the weights too."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from hearth_export.activations import coarse_and_fine, summed
from hearth_export.graph import Graph

Floats = NDArray[np.float32]
K, BLOCK = 64, 32


def run(x: Floats) -> tuple[Floats, Floats]:
    """Coarse and fine rows of x, and the sum of both."""
    graph = Graph("none")
    flat = x.ndim == 2
    graph.add_input("x", "float32", ["R", K] if flat else ["B", "S", K])
    pairs = coarse_and_fine(graph, "x", K, BLOCK, flat=flat)
    summed(graph, "sum", pairs)
    for name in (pairs, "sum"):
        graph.add_output(name, "float32", [*"ABC"[: x.ndim]])
    model = graph.model("test").SerializeToString()
    both, total = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return both, total


@pytest.mark.parametrize("shape", [(3, K), (2, 3, K)])
def test_fine_rows_are_what_int8_in_blocks_loses(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(7).standard_normal(shape, np.float32)
    x[..., :BLOCK] *= 100
    both, _ = run(x)
    blocks = x.reshape(-1, BLOCK)
    step = np.abs(blocks).max(-1, keepdims=True) / 127
    lost = blocks - np.rint(blocks / step) * step
    np.testing.assert_array_equal(both[: len(x)], x)
    np.testing.assert_allclose(both[len(x) :].reshape(-1, BLOCK), lost, atol=1e-5)


def test_zeros_lose_nothing() -> None:
    both, total = run(np.zeros((2, K), np.float32))
    assert not both.any() and not total.any()


def test_no_row_gives_no_row() -> None:
    both, total = run(np.zeros((0, K), np.float32))
    assert both.shape == total.shape == (0, K)
