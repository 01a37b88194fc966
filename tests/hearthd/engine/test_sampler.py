from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from hearthd.engine import sampler
from hearthd.engine.frames import SamplingParams
from hearthd.engine.sampler import Candidates, Floats, NonFiniteLogits, Sampler

PLAIN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0)


def random_logits(seed: int, size: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def ranked(logits: Floats) -> Candidates:
    return sampler.top_k(logits, 0)


def softmax(values: list[float]) -> list[float]:
    weights = [math.exp(value - max(values)) for value in values]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("size", [3, 64, 1000, 4097, 49_152])
@pytest.mark.parametrize("k", [1, 2, 40, 300, 4096, 0, -1, 10**9])
def test_top_k_gives_the_k_best_in_order(size: int, k: int) -> None:
    logits = random_logits(size, size)
    got = sampler.top_k(logits, k)
    assert got.logits.tolist() == sorted(logits.tolist(), reverse=True)[: k if k > 0 else size]
    assert logits[got.ids].tolist() == got.logits.tolist()
    assert len(set(got.ids.tolist())) == len(got.ids)


def test_top_k_keeps_k_of_many_equal_logits() -> None:
    assert len(sampler.top_k(np.zeros(10_000, np.float32), 40).ids) == 40


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_fewest_that_reach_p(p: float) -> None:
    candidates = ranked(random_logits(1, 200))
    total, want = 0.0, 0
    for probability in softmax(candidates.logits.tolist()):
        if want and total >= p and p < 1.0:
            break
        total += probability
        want += 1
    kept = sampler.top_p(candidates, SamplingParams(top_p=p))
    assert kept.ids.tolist() == candidates.ids.tolist()[:want]


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1.0, 7.0])
def test_min_p_keeps_what_is_likely_enough_beside_the_best(p: float) -> None:
    candidates = ranked(random_logits(2, 200))
    likely = softmax(candidates.logits.tolist())
    want = [token for token, q in zip(candidates.ids.tolist(), likely, strict=True) if q >= min(p, 1.0) * likely[0]]
    assert sampler.min_p(candidates, SamplingParams(min_p=p)).ids.tolist() == want


def test_penalties_change_only_recent_tokens_by_the_published_formulas() -> None:
    logits = random_logits(3, 50)
    recent = [4, 9, 4, 30, 4]
    params = SamplingParams(repeat_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2)
    want = logits.astype(float).tolist()
    for token, count in Counter(recent).items():
        value = want[token] / 1.3 if want[token] > 0 else want[token] * 1.3
        want[token] = value - 0.4 - 0.2 * count
    before = logits.copy()
    assert sampler.penalized(logits, np.array(recent), params).tolist() == pytest.approx(want, abs=1e-5)
    assert (logits == before).all()


def test_temperature_zero_takes_the_best_token_whatever_the_seed() -> None:
    logits = random_logits(4, 1000)
    greedy = SamplingParams(temperature=0.0)
    assert {Sampler(greedy, num_ctx=64, prompt=[]).choose(logits) for _ in range(5)} == {int(logits.argmax())}


def test_a_negative_temperature_is_greedy() -> None:
    logits = random_logits(4, 1000)
    assert Sampler(SamplingParams(temperature=-1.0), num_ctx=64, prompt=[]).choose(logits) == logits.argmax()


def test_greedy_after_penalties_leaves_a_repeated_token() -> None:
    logits = np.array([5.0, 4.9, 0.0], np.float32)
    params = SamplingParams(temperature=0.0, repeat_penalty=1.5)
    chosen = Sampler(params, num_ctx=64, prompt=[0])
    assert [chosen.choose(logits), chosen.choose(logits)] == [1, 0]


@pytest.mark.parametrize(("last_n", "want"), [(0, 0), (1, 0), (2, 1), (64, 1), (-1, 1)])
def test_repeat_last_n_bounds_how_far_back_a_repetition_counts(last_n: int, want: int) -> None:
    params = SamplingParams(temperature=0.0, repeat_penalty=2.0, repeat_last_n=last_n)
    assert Sampler(params, num_ctx=64, prompt=[0, 2]).choose(np.array([5.0, 4.0, 0.0], np.float32)) == want


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = random_logits(5, 5000)
    params = SamplingParams(seed=42)
    runs = [[Sampler(params, num_ctx=64, prompt=[]).choose(logits)] for _ in range(2)]
    one, other = (Sampler(params, num_ctx=64, prompt=[]) for _ in range(2))
    assert [one.choose(logits) for _ in range(50)] == [other.choose(logits) for _ in range(50)]
    assert runs[0] == runs[1]


def test_seed_minus_one_draws_afresh() -> None:
    logits = np.zeros(10_000, np.float32)
    draws = {Sampler(PLAIN, num_ctx=64, prompt=[]).choose(logits) for _ in range(8)}
    assert len(draws) > 1


@pytest.mark.parametrize("seed", [-2, -(2**63), 2**63 - 1, 2**64 - 1, 0])
def test_every_seed_of_64_bits_is_usable(seed: int) -> None:
    assert 0 <= Sampler(SamplingParams(seed=seed), num_ctx=8, prompt=[]).choose(random_logits(0, 10)) < 10


def test_draws_follow_the_softmax() -> None:
    logits = np.array([1.0, 0.0, -1.0, -20.0], np.float32)
    chosen = Sampler(SamplingParams(temperature=0.7, top_k=3, top_p=1.0, seed=7), num_ctx=64, prompt=[])
    counts = Counter(chosen.choose(logits) for _ in range(20_000))
    want = softmax([value / 0.7 for value in (1.0, 0.0, -1.0)])
    assert counts[3] == 0
    for token, probability in enumerate(want):
        assert counts[token] / 20_000 == pytest.approx(probability, abs=0.02)


def test_top_p_looks_at_probabilities_before_the_temperature() -> None:
    # at temperature 1 the best token alone reaches 0.6; at temperature 10 all three would be needed
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    chosen = Sampler(SamplingParams(temperature=10.0, top_k=0, top_p=0.6, seed=1), num_ctx=8, prompt=[])
    assert {chosen.choose(logits) for _ in range(100)} == {0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("top_k", [0, 40])
def test_a_non_finite_row_is_refused(bad: float, temperature: float, top_k: int) -> None:
    logits = random_logits(6, 5000)
    logits[1234] = bad
    with pytest.raises(NonFiniteLogits, match="not finite"):
        Sampler(SamplingParams(temperature=temperature, top_k=top_k), num_ctx=8, prompt=[]).choose(logits)


def test_a_row_of_minus_infinity_is_refused() -> None:
    with pytest.raises(NonFiniteLogits):
        Sampler(SamplingParams(), num_ctx=8, prompt=[]).choose(np.full(100, -np.inf, np.float32))


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.full(5000, -np.inf, np.float32)
    logits[[7, 4000]] = 1.0
    chosen = Sampler(PLAIN, num_ctx=8, prompt=[])
    assert {chosen.choose(logits) for _ in range(200)} == {7, 4000}
