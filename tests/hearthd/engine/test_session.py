from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hearthd.engine.cached import CachedTokens
from hearthd.engine.chunks import next_size
from hearthd.engine.session import Session, open_session
from hearthd.store.variant import read_variant

pytestmark = pytest.mark.usefixtures("all_cores")

TILE = 32


def opened(variant: Path, num_batch: int = 512, num_threads: int = 2) -> Session:
    info = read_variant(variant)
    assert info is not None
    return open_session(variant, info, num_ctx=1024, num_batch=num_batch, num_threads=num_threads)


def ids(count: int) -> list[int]:
    return np.random.default_rng(9).integers(3, 130, count).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("num_batch", "size"),
    [(512, 128), (1, 1), (0, 1), (10**9, 128), (100, 96), (40, 32), (8, 8)],
)
def test_num_batch_bounds_a_step_in_whole_tiles(tiny_variant: Path, num_batch: int, size: int) -> None:
    session = opened(tiny_variant, num_batch)
    assert session.chunk == size
    assert session.chunk % session.tile == 0


def test_logits_have_the_same_bits_from_any_whole_number_of_cached_tiles(tiny_variant: Path) -> None:
    session = opened(tiny_variant)
    tokens = ids(420)
    for length in (34, 65, 129, 130, 161, 257, 300):
        session.evaluate(tokens[:length])
        expected = session.logits[0].copy()
        for reused in range(0, length - 1, TILE):
            session.evaluate(tokens)  # a longer text, in other steps
            session.evaluate(tokens[reused:length], reused)
            np.testing.assert_array_equal(session.logits[0], expected, err_msg=f"{length} tokens, {reused} cached")


@pytest.mark.parametrize("num_batch", [1, 3, 8, 33, 512])
def test_what_is_exactly_reusable_gives_the_bits_of_an_empty_cache_whatever_ran_before(
    tiny_variant: Path, num_batch: int
) -> None:
    session = opened(tiny_variant, num_batch)
    chance, tokens = random.Random(num_batch), ids(300)
    for length in (33, 97, 129, 200, 255):
        cached = CachedTokens(session.tile)
        _evaluate(session, cached, tokens[:length], exact=True)
        expected = session.logits[0].copy()
        for _ in range(4):
            _evaluate(session, cached, tokens[: chance.randrange(1, 280)], exact=chance.random() < 0.5)
            _evaluate(session, cached, tokens[:length], exact=True)
            np.testing.assert_array_equal(session.logits[0], expected)


def test_more_threads_than_cores_are_as_many_as_cores(tiny_variant: Path) -> None:
    assert opened(tiny_variant, num_threads=10_000).device == opened(tiny_variant, num_threads=0).device


def _evaluate(session: Session, cached: CachedTokens, tokens: list[int], *, exact: bool) -> None:
    """What a batch does with a prompt."""
    cached.cut(cached.reusable(tokens, exact=exact))
    while len(cached) < len(tokens):
        past = len(cached)
        size = next_size(len(tokens) - past, chunk=session.chunk, tile=session.tile)
        session.prefill(0, tokens[past : past + size], past, last=past + size == len(tokens))
        cached.extend(tokens[past : past + size])


def test_states_are_what_the_head_multiplies_and_are_the_same_in_any_company(tiny_variant: Path) -> None:
    session = opened(tiny_variant)
    tokens = ids(96)
    whole = session.read(0, tokens, 0, 96).copy()
    assert whole.shape == (96, 64)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(session.read(0, tokens, 0, 1)[0], whole[-1])
    session.prefill(0, tokens[:32], 0, last=False)
    np.testing.assert_array_equal(session.read(0, tokens[32:], 32, 64), whole[32:])


def test_states_cost_no_logits(tiny_variant: Path) -> None:
    session = opened(tiny_variant)
    session.logits[:] = 7
    session.read(0, ids(40), 0, 40)
    assert (session.logits == 7).all()


def test_logits_are_the_same_before_and_after_states_were_asked_for(tiny_variant: Path) -> None:
    session = opened(tiny_variant)
    before = session.evaluate(ids(50)).copy()
    session.read(0, ids(50), 0, 1)
    np.testing.assert_array_equal(session.evaluate(ids(50)), before)
