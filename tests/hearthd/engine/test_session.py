from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hearthd.engine.cached import CachedTokens
from hearthd.engine.session import Session, open_session, steps
from hearthd.store.variant import read_variant

TILE = 32


def opened(variant: Path, num_batch: int = 512, num_threads: int = 2) -> Session:
    info = read_variant(variant)
    assert info is not None
    return open_session(variant, info, num_ctx=1024, num_batch=num_batch, num_threads=num_threads)


def ids(count: int) -> list[int]:
    return np.random.default_rng(9).integers(3, 130, count).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("chunk", "tile"), [(128, 32), (32, 32), (64, 32), (8, 8), (2, 2), (1, 1)])
def test_steps_add_up_begin_on_tiles_and_leave_no_token_alone(chunk: int, tile: int) -> None:
    for num_tokens in range(1, 400):
        sizes = list(steps(num_tokens, chunk=chunk, tile=tile))
        assert sum(sizes) == num_tokens
        assert all(size % tile == 0 for size in (sizes[:-1] if sizes[-1] != 2 else sizes[:-2]))
        assert max(sizes) <= chunk
        assert sizes[-1] > 1 or num_tokens == 1 or chunk == 1


def test_no_tokens_need_no_step() -> None:
    assert list(steps(0, chunk=128, tile=32)) == []


@pytest.mark.parametrize(
    ("num_batch", "size"),
    [(512, 128), (1, 1), (0, 1), (10**9, 128), (100, 96), (40, 32), (8, 8)],
)
def test_num_batch_bounds_a_step_in_whole_tiles(tiny_variant: Path, num_batch: int, size: int) -> None:
    session = opened(tiny_variant, num_batch)
    done = list(session.prefill(ids(300), 0))
    assert done[0] == size
    assert done[-1] == 300


def test_logits_have_the_same_bits_from_any_whole_number_of_cached_tiles(tiny_variant: Path) -> None:
    session = opened(tiny_variant)
    tokens = ids(420)
    for length in (34, 65, 129, 130, 161, 257, 300):
        _drain(session, tokens[:length], 0)
        expected = session.logits.copy()
        for reused in range(0, length - 1, TILE):
            _drain(session, tokens, 0)  # a longer text, in other steps
            _drain(session, tokens[reused:length], reused)
            np.testing.assert_array_equal(session.logits, expected, err_msg=f"{length} tokens, {reused} cached")


@pytest.mark.parametrize("num_batch", [1, 3, 8, 33, 512])
def test_what_is_exactly_reusable_gives_the_bits_of_an_empty_cache_whatever_ran_before(
    tiny_variant: Path, num_batch: int
) -> None:
    session = opened(tiny_variant, num_batch)
    chance, tokens = random.Random(num_batch), ids(300)
    for length in (33, 97, 129, 200, 255):
        cached = CachedTokens(session.tile)
        _evaluate(session, cached, tokens[:length], exact=True)
        expected = session.logits.copy()
        for _ in range(4):
            _evaluate(session, cached, tokens[: chance.randrange(1, 280)], exact=chance.random() < 0.5)
            _evaluate(session, cached, tokens[:length], exact=True)
            np.testing.assert_array_equal(session.logits, expected)


def test_more_threads_than_cores_are_as_many_as_cores(tiny_variant: Path) -> None:
    assert opened(tiny_variant, num_threads=10_000).device == opened(tiny_variant, num_threads=0).device


def _evaluate(session: Session, cached: CachedTokens, tokens: list[int], *, exact: bool) -> None:
    """What a batch does with a prompt."""
    cached.cut(cached.reusable(tokens, exact=exact))
    rest = tokens[len(cached) :]
    past = len(cached)
    for done in session.prefill(rest, past):
        cached.extend(rest[len(cached) - past : done])


def _drain(session: Session, tokens: list[int], past: int) -> None:
    for _ in session.prefill(tokens, past):
        pass
