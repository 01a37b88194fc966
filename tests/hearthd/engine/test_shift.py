"""Dropping tokens of a full window: the arrays against the definition, and a model against a fresh evaluation."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hearthd.engine.session import Session, open_session
from hearthd.engine.shift import SCRATCH_BYTES, drop_positions
from hearthd.store.variant import read_variant
from tests.conftest import convert
from tests.tiny import write_tiny_gguf

Floats = NDArray[np.float32]

INV_FREQ = [1.0, 0.3, 0.05, 0.001]
NUM_CTX = 64


def rotated(plain: Floats, first: int = 0) -> Floats:
    """(heads, n, D) keys turned by their positions, straight from the definition, pair by pair."""
    half = len(INV_FREQ)
    turned = plain.astype(np.float64)
    positions = np.arange(first, first + plain.shape[1])
    for pair, frequency in enumerate(INV_FREQ):
        number = (plain[..., pair] + 1j * plain[..., pair + half]) * np.exp(1j * frequency * positions)
        turned[..., pair], turned[..., pair + half] = number.real, number.imag
    return turned.astype(np.float32)


@pytest.mark.parametrize(
    ("kept", "count", "length"),
    [(0, 8, 16), (4, 6, 16), (15, 1, 16), (0, 1, 16), (3, 13, 16), (5, 2, 12), (40, 3000, 9000), (7, 1, 9000)],
)
@pytest.mark.parametrize("head_dim", [8, 12])  # all of it rotated, or two thirds
def test_the_keys_that_stay_are_those_of_their_new_positions(kept: int, count: int, length: int, head_dim: int) -> None:
    generator = np.random.default_rng(3)
    plain = generator.standard_normal((2, length + 5, head_dim), np.float32)
    values = generator.standard_normal((2, length + 5, head_dim), np.float32)
    keys, left = rotated(plain), [*range(kept), *range(kept + count, length)]
    expected_values = values[:, left].copy()
    before = keys.copy()
    drop_positions(keys, values, INV_FREQ, kept=kept, count=count, length=length)
    np.testing.assert_allclose(keys[:, : len(left)], rotated(plain[:, left]), atol=1e-4)
    np.testing.assert_array_equal(keys[:, :kept], before[:, :kept])
    np.testing.assert_array_equal(values[:, : len(left)], expected_values)
    np.testing.assert_array_equal(keys[:, length:], before[:, length:])  # beyond the text nothing is touched


def test_many_shifts_in_a_row_stay_close_to_the_definition() -> None:
    plain = np.random.default_rng(5).standard_normal((1, 1001, 8), np.float32)
    keys, values = rotated(plain), plain.copy()
    for length in range(1001, 1, -1):
        drop_positions(keys, values, INV_FREQ, kept=0, count=1, length=length)
    np.testing.assert_allclose(keys[:, :1], rotated(plain[:, -1:]), atol=1e-4)


def test_keys_of_half_precision_are_turned_too() -> None:
    plain = np.random.default_rng(4).standard_normal((2, 32, 8), np.float32)
    keys, values = rotated(plain).astype(np.float16), plain.astype(np.float16)
    drop_positions(keys, values, INV_FREQ, kept=2, count=10, length=32)
    left = [0, 1, *range(12, 32)]
    np.testing.assert_allclose(keys[:, :22], rotated(plain[:, left]), atol=1e-2)


def test_codes_turn_to_the_nearest_codes_and_stay_in_their_range() -> None:
    keys = np.random.default_rng(6).integers(-127, 128, (2, 600, 8), np.int8)
    values, before, half = keys.copy(), keys.astype(np.float64), len(INV_FREQ)
    drop_positions(keys, values, INV_FREQ, kept=2, count=300, length=600)
    moved = before[:, 302:]
    turned = (moved[..., :half] + 1j * moved[..., half:]) * np.exp(-300j * np.array(INV_FREQ))
    wanted = np.clip(np.concatenate([turned.real, turned.imag], -1), -127, 127)
    assert (np.abs(wanted) == 127).any()  # some pairs are longer than a code can be
    assert np.abs(keys[:, 2:300] - wanted).max() <= 0.501
    np.testing.assert_array_equal(values[:, 2:300], moved)


def test_scratch_memory_does_not_grow_with_the_window() -> None:
    keys = np.ones((8, 20_000, 64), np.float32)  # 40 MiB
    values = np.ones_like(keys)
    tracemalloc.start()
    try:
        drop_positions(keys, values, [1.0] * 32, kept=4, count=100, length=20_000)
        assert tracemalloc.get_traced_memory()[1] < 5 * SCRATCH_BYTES
    finally:
        tracemalloc.stop()


ROPES: dict[str, dict[str, str | float | int]] = {
    "plain": {},
    "linear": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
    "yarn": {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 8.0,
        "llama.rope.scaling.original_context_length": 8192,
    },
}


@pytest.fixture(scope="module", params=sorted(ROPES))
def one_layer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one decoder layer: its keys and values depend on nothing but token and position."""
    root = tmp_path_factory.mktemp("one-layer")
    return convert(write_tiny_gguf(root / "one.gguf", num_layers=1, extra=dict(ROPES[request.param])), root / "out")


def opened(directory: Path) -> Session:
    info = read_variant(directory)
    assert info is not None
    return open_session(directory, info, num_ctx=NUM_CTX, num_threads=2)


def cached(session: Session, kind: str, first: int, end: int) -> Floats:
    return np.asarray(session.cache.of(0, kind)[..., first:end, :], np.float32)


def evaluate(session: Session, ids: list[int]) -> None:
    session.evaluate(ids)


def test_after_a_shift_keys_and_logits_are_those_of_a_fresh_evaluation(one_layer: Path) -> None:
    ids = np.random.default_rng(1).integers(3, 130, NUM_CTX).tolist()
    kept, count = 5, (NUM_CTX - 5) // 2
    left = ids[:kept] + ids[kept + count :]
    shifted, fresh = opened(one_layer), opened(one_layer)
    evaluate(shifted, ids)
    shifted.drop(0, kept, count, NUM_CTX)
    evaluate(fresh, left)
    for kind in ("key", "value"):
        ours, theirs = (cached(session, kind, 0, len(left)) for session in (shifted, fresh))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for past, token in enumerate((40, 77, 99), len(left)):
        shifted.decode((token,), (past,))
        fresh.decode((token,), (past,))
        np.testing.assert_allclose(shifted.logits, fresh.logits, atol=0.02 * float(np.abs(fresh.logits).max()))


def test_without_turning_the_keys_the_comparison_would_fail(one_layer: Path) -> None:
    """The model tells positions apart: the tolerance of the test above is not so wide that anything passes."""
    ids = np.random.default_rng(1).integers(3, 130, NUM_CTX).tolist()
    left = ids[:5] + ids[34:]
    session, fresh = opened(one_layer), opened(one_layer)
    evaluate(session, ids)
    evaluate(fresh, left)
    unturned, right = cached(session, "key", 34, NUM_CTX), cached(fresh, "key", 5, len(left))
    assert np.abs(unturned - right).max() > 0.1
