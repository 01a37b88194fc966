"""Mirostat beside a slow implementation of Basu et al. 2020, Algorithm 1, and of its second version."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hearthd.engine.candidates import Candidates, possible
from hearthd.engine.frames import SamplingParams
from hearthd.engine.mirostat import Mirostat, num_within, zipf_exponent
from hearthd.engine.sampler import Floats, Sampler


def zipf(size: int, exponent: float, seed: int = 0) -> Floats:
    """Logits of a shuffled Zipf distribution."""
    logits = -exponent * np.log(np.arange(1, size + 1))
    return np.random.default_rng(seed).permutation(logits).astype(np.float32)


def softmax(values: list[float]) -> list[float]:
    best = max(values)
    weights = [math.exp(value - best) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def by_rank(logits: Floats) -> list[tuple[int, float]]:
    listed = [(token, value) for token, value in enumerate(logits.tolist()) if value > -math.inf]
    return sorted(listed, key=lambda pair: (-pair[1], pair[0]))


def plain_one(logits: Floats, limit: float) -> list[int]:
    order = by_rank(logits)
    share = softmax([value for _, value in order])
    above = below = 0.0
    for i in range(1, min(100, len(order))):
        t = math.log((i + 1) / i)
        above += t * math.log(share[i - 1] / share[i])
        below += t * t
    s = above / below if below else 0.0
    size = len(logits)
    try:
        excess = s - 1
        k = (excess * 2**limit / (1 - size**-excess)) ** (1 / s)
    except ZeroDivisionError:  # s is 0: all are alike
        k = math.inf if 2**limit / (size - 1) > 1 else 0.0
    count = size if k > size else max(1, int(k))
    return [token for token, _ in order[:count]]


def plain_two(logits: Floats, limit: float) -> list[int]:
    order = by_rank(logits)
    share = softmax([value for _, value in order])
    kept = [token for (token, _), q in zip(order, share, strict=True) if -math.log2(q) <= limit]
    return kept or [order[0][0]]


def mirostat(version: int, limit: float, **fields: Any) -> Mirostat:
    state = Mirostat(SamplingParams(mirostat=version, **fields))
    state.limit = limit
    return state


@pytest.mark.parametrize("limit", [-3.0, 0.1, 1.0, 4.9, 10.3, 30.0])
@pytest.mark.parametrize("exponent", [0.4, 0.99, 1.3, 3.0])
@pytest.mark.parametrize("size", [2, 3, 60, 700])
@pytest.mark.parametrize("version", [1, 2])
def test_what_is_kept_is_what_the_definition_keeps(version: int, size: int, exponent: float, limit: float) -> None:
    logits = zipf(size, exponent, seed=size)
    if size > 5:
        logits[1:5] = -math.inf
    plain = plain_one if version == 1 else plain_two
    got = mirostat(version, limit).keep(possible(logits), size)
    assert sorted(got.ids.tolist()) == sorted(plain(logits, limit))


@pytest.mark.parametrize("size", [5000, 20_000])
def test_large_rows_keep_the_same_too(size: int) -> None:
    logits = zipf(size, 1.1)
    for version, plain in ((1, plain_one), (2, plain_two)):
        got = mirostat(version, 9.5).keep(possible(logits), size)
        assert sorted(got.ids.tolist()) == sorted(plain(logits, 9.5))


def test_the_exponent_of_a_zipf_distribution_is_found() -> None:
    assert zipf_exponent(np.sort(zipf(100, 1.37))[::-1]) == pytest.approx(1.37)


@pytest.mark.parametrize("exponent", [0.0, 1e-300, 1e-9, 0.5, 1.0, 1.0 + 1e-12, 7.0, 1e3, 1e30])
@pytest.mark.parametrize("limit", [-1e6, -1.0, 0.0, 5.0, 1e6])
@pytest.mark.parametrize("size", [2, 100, 256_000])
def test_the_number_of_tokens_is_always_between_one_and_the_vocabulary(
    exponent: float, limit: float, size: int
) -> None:
    assert 1 <= num_within(exponent, limit, size) <= size


def test_the_number_of_tokens_has_no_jump_where_the_exponent_is_one() -> None:
    near = [num_within(exponent, 12.0, 50_000) for exponent in (1 - 1e-6, 1.0, 1 + 1e-6)]
    assert max(near) - min(near) <= 1


@pytest.mark.parametrize("logits", [[3.0], [2.0] * 50, [0.0, -3e38], [-math.inf, 1.0, -math.inf]])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limit", [-1e6, 0.0, 1.0, 1e6])
def test_one_candidate_at_least_is_kept(version: int, logits: list[float], limit: float) -> None:
    row = np.array(logits, np.float32)
    got = mirostat(version, limit).keep(possible(row), len(row))
    assert len(got.ids) >= 1
    assert row.max() in row[got.ids]
    assert -math.inf not in row[got.ids]


def test_one_token_has_a_vocabulary_of_its_own() -> None:
    assert mirostat(1, 5.0).keep(possible(np.array([3.0], np.float32)), 1).ids.tolist() == [0]


def test_the_limit_starts_at_twice_the_target_and_learns_from_the_error() -> None:
    state = Mirostat(SamplingParams(mirostat=2, mirostat_tau=3.0, mirostat_eta=0.2))
    assert state.limit == 6.0
    candidates = Candidates(np.arange(3), np.log(np.array([0.5, 0.25, 0.25])))
    state.learn(candidates, 1)  # a surprise of 2 bits
    assert state.limit == pytest.approx(6.0 - 0.2 * (2.0 - 3.0))


def test_a_learning_rate_of_zero_leaves_the_limit() -> None:
    chosen = Sampler(SamplingParams(mirostat=2, mirostat_eta=0.0, mirostat_tau=2.0, seed=1), num_ctx=8, prompt=[])
    logits = zipf(1000, 1.0)
    allowed = set(plain_two((logits / 0.8).astype(np.float32), 4.0))
    assert {chosen.choose(logits) for _ in range(300)} <= allowed


@pytest.mark.parametrize("version", [1, 2])
def test_a_target_of_zero_takes_the_best_token(version: int) -> None:
    chosen = Sampler(SamplingParams(mirostat=version, mirostat_tau=0.0, seed=1), num_ctx=8, prompt=[])
    logits = zipf(1000, 1.1)
    assert {chosen.choose(logits) for _ in range(50)} == {int(logits.argmax())}


@pytest.mark.parametrize("target", [2.0, 4.0])
@pytest.mark.parametrize("version", [1, 2])
def test_the_mean_surprise_of_a_long_text_comes_near_the_target(version: int, target: float) -> None:
    params = SamplingParams(mirostat=version, mirostat_tau=target, temperature=1.0)
    state, rng = Mirostat(params), np.random.default_rng(5)
    rows = [zipf(2000, exponent, seed) for seed, exponent in enumerate((0.8, 1.0, 1.2))]
    surprises = list[float]()
    for turn in range(600):
        left = state.keep(possible(rows[turn % 3]), 2000)
        share = softmax(left.logits.tolist())
        place = int(rng.choice(len(share), p=np.array(share) / sum(share)))
        surprises.append(-math.log2(share[place]))
        state.learn(left, place)
    assert sum(surprises[100:]) / 500 == pytest.approx(target, abs=0.4)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_takes_the_place_of_the_filters(version: int) -> None:
    params = SamplingParams(
        mirostat=version, mirostat_tau=9.0, top_k=1, top_p=0.01, min_p=0.9, tfs_z=0.01, typical_p=0.01, seed=3
    )
    chosen = Sampler(params, num_ctx=8, prompt=[])
    assert len({chosen.choose(zipf(1000, 0.5)) for _ in range(50)}) > 10


def test_mirostat_looks_at_probabilities_after_the_temperature() -> None:
    # at temperature 4 no token is surprising by less than the limit of 2 bits; at 1 the best one and its equal are
    logits = np.array([4.0, 4.0, *[0.0] * 30], np.float32)
    hot, cold = (
        Sampler(
            SamplingParams(mirostat=2, mirostat_tau=1.0, mirostat_eta=0.0, temperature=t, seed=2), num_ctx=8, prompt=[]
        )
        for t in (4.0, 1.0)
    )
    assert {hot.choose(logits) for _ in range(60)} == {0}
    assert {cold.choose(logits) for _ in range(60)} == {0, 1}


@pytest.mark.parametrize("version", [-1, 3, 99])
def test_an_unknown_version_is_off(version: int) -> None:
    chosen = Sampler(SamplingParams(mirostat=version, top_k=1), num_ctx=8, prompt=[])
    logits = zipf(100, 0.1)
    assert {chosen.choose(logits) for _ in range(20)} == {int(logits.argmax())}


@pytest.mark.parametrize("value", [math.nan, -5.0, math.inf, 1e300])
@pytest.mark.parametrize("field", ["mirostat_tau", "mirostat_eta"])
@pytest.mark.parametrize("version", [1, 2])
def test_targets_and_rates_beyond_all_measure_keep_a_finite_limit(version: int, field: str, value: float) -> None:
    fields: dict[str, Any] = {"mirostat": version, field: value}
    state = Mirostat(SamplingParams(**fields))
    for _ in range(50):
        left = state.keep(possible(zipf(50, 1.0)), 50)
        state.learn(left, len(left.ids) - 1)
        assert math.isfinite(state.limit)
