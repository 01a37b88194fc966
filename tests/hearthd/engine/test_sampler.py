from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from hearthd.engine.frames import SamplingParams
from hearthd.engine.sampler import Floats, NonFiniteLogits, Sampler

PLAIN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0)
INF, NAN = math.inf, math.nan
EVERYTHING: dict[str, Any] = {
    "temperature": 0.9,
    "top_k": 60,
    "top_p": 0.95,
    "min_p": 0.02,
    "tfs_z": 0.97,
    "typical_p": 0.9,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
}


def random_logits(seed: int, size: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def sampler(
    num_ctx: int = 64, prompt: tuple[int, ...] = (), newline_ids: tuple[int, ...] = (), **fields: Any
) -> Sampler:
    return Sampler(SamplingParams(**fields), num_ctx=num_ctx, prompt=prompt, newline_ids=newline_ids)


def softmax(values: list[float]) -> list[float]:
    weights = [math.exp(value - max(values)) for value in values]
    return [weight / sum(weights) for weight in weights]


def test_temperature_zero_takes_the_best_token_whatever_the_seed() -> None:
    logits = random_logits(4, 1000)
    assert {sampler(temperature=0.0, seed=seed).choose(logits) for seed in range(5)} == {int(logits.argmax())}


@pytest.mark.parametrize("mirostat", [0, 1, 2])
@pytest.mark.parametrize("temperature", [0.0, -1.0, -INF, NAN])
def test_a_temperature_not_above_zero_is_greedy(temperature: float, mirostat: int) -> None:
    logits = random_logits(4, 1000)
    chosen = sampler(temperature=temperature, mirostat=mirostat)
    assert {chosen.choose(logits) for _ in range(5)} == {logits.argmax()}


def test_of_equal_best_tokens_greedy_takes_the_lowest_id() -> None:
    assert sampler(temperature=0.0).choose(np.array([1, 4, 2, 4], np.float32)) == 1


def test_greedy_after_penalties_leaves_a_repeated_token() -> None:
    logits = np.array([5.0, 4.9, 0.0], np.float32)
    chosen = sampler(temperature=0.0, repeat_penalty=1.5, prompt=(0,))
    assert [chosen.choose(logits), chosen.choose(logits)] == [1, 0]


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_presence_and_frequency_alone_also_count_the_prompt(field: str) -> None:
    logits = np.array([5.0, 4.9, 0.0], np.float32)
    fields: dict[str, Any] = {"temperature": 0.0, field: 0.5}
    assert sampler(prompt=(0,), **fields).choose(logits) == 1


@pytest.mark.parametrize(("last_n", "want"), [(0, 0), (1, 0), (2, 1), (64, 1), (-1, 1), (10**9, 1), (-7, 1)])
def test_repeat_last_n_bounds_how_far_back_a_repetition_counts(last_n: int, want: int) -> None:
    chosen = sampler(temperature=0.0, repeat_penalty=2.0, repeat_last_n=last_n, prompt=(0, 2))
    assert chosen.choose(np.array([5.0, 4.0, 0.0], np.float32)) == want


def test_repeat_last_n_reaches_no_further_back_than_num_ctx() -> None:
    logits = np.array([5.0, 4.0, 0.0], np.float32)
    assert (
        sampler(temperature=0.0, repeat_penalty=2.0, repeat_last_n=-1, num_ctx=2, prompt=(0, 2, 2)).choose(logits) == 0
    )


@pytest.mark.parametrize(("penalizes", "want"), [(True, 1), (False, 0)])
def test_a_newline_that_is_not_penalized_keeps_its_logit(penalizes: bool, want: int) -> None:
    logits = np.array([5.0, 4.0, 0.0], np.float32)
    chosen = sampler(temperature=0.0, repeat_penalty=2.0, penalize_newline=penalizes, prompt=(0, 0), newline_ids=(0, 2))
    assert chosen.choose(logits) == want


def test_only_the_newline_is_spared() -> None:
    logits = np.array([5.0, 4.0, 3.0], np.float32)
    chosen = sampler(temperature=0.0, repeat_penalty=9.0, penalize_newline=False, prompt=(0, 1), newline_ids=(1,))
    assert chosen.choose(logits) == 1


@pytest.mark.parametrize("fields", [{}, EVERYTHING, {"mirostat": 1}, {"mirostat": 2}, {"top_k": 0, "top_p": 1.0}])
def test_the_same_seed_draws_the_same_tokens(fields: dict[str, Any]) -> None:
    rows = [random_logits(seed, 5000) for seed in range(40)]
    one, other = (sampler(seed=42, **fields) for _ in range(2))
    tokens = [one.choose(row) for row in rows]
    assert tokens == [other.choose(row) for row in rows]
    assert tokens != [sampler(seed=43, **fields).choose(row) for row in rows]


def test_the_same_seed_draws_the_same_tokens_while_others_draw() -> None:
    rows = [random_logits(seed, 2000) for seed in range(60)]
    alone, results = sampler(seed=7), list[list[int]]()
    want = [alone.choose(row) for row in rows]

    def draw(chosen: Sampler) -> None:
        results.append([chosen.choose(row) for row in rows])

    threads = [threading.Thread(target=draw, args=(sampler(seed=7),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [want] * 4
    between, other = sampler(seed=7), sampler(seed=8)
    assert [(between.choose(row), other.choose(row))[0] for row in rows] == want


def test_seed_minus_one_draws_afresh() -> None:
    logits = np.zeros(10_000, np.float32)
    assert len({Sampler(PLAIN, num_ctx=64, prompt=[]).choose(logits) for _ in range(8)}) > 1


@pytest.mark.parametrize("seed", [-2, -(2**63), 2**63 - 1, 2**64 - 1, 0])
def test_every_seed_of_64_bits_gives_draws_of_its_own(seed: int) -> None:
    logits = np.zeros(10_000, np.float32)
    chosen, same, other = sampler(seed=seed), sampler(seed=seed), sampler(seed=12345)
    tokens = [chosen.choose(logits) for _ in range(6)]
    assert tokens == [same.choose(logits) for _ in range(6)]
    assert tokens != [other.choose(logits) for _ in range(6)]


@pytest.mark.parametrize("size", [4, 20_000])
def test_draws_follow_the_softmax(size: int) -> None:
    logits = np.full(size, -90.0, np.float32)
    likely = [0, size // 2 - 1, size - 1]
    logits[likely] = 1.0, 0.0, -1.0
    chosen = sampler(temperature=0.7, top_k=0, top_p=1.0, seed=7)
    counts = Counter(chosen.choose(logits) for _ in range(4000))
    assert set(counts) == set(likely)
    for token, probability in zip(likely, softmax([value / 0.7 for value in (1.0, 0.0, -1.0)]), strict=True):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_p_looks_at_probabilities_before_the_temperature() -> None:
    # at temperature 1 the best token alone reaches 0.6; at temperature 10 all three would be needed
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    chosen = sampler(temperature=10.0, top_k=0, top_p=0.6, seed=1)
    assert {chosen.choose(logits) for _ in range(100)} == {0}


def test_top_p_looks_at_what_top_k_left() -> None:
    # of all four tokens three are needed for 0.75; of the best two, the best alone has 4/7
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    chosen = sampler(temperature=1.0, top_k=2, top_p=0.56, seed=1)
    assert {chosen.choose(logits) for _ in range(100)} == {0}


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {}, {"top_k": 0}, {"mirostat": 1}, {"mirostat": 2}])
def test_a_non_finite_row_is_refused(bad: float, fields: dict[str, Any]) -> None:
    logits = random_logits(6, 5000)
    logits[1234] = bad
    with pytest.raises(NonFiniteLogits, match="not finite"):
        sampler(**fields).choose(logits)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_non_finite_logit_of_a_penalized_token_is_refused(bad: float) -> None:
    with pytest.raises(NonFiniteLogits):
        sampler(repeat_penalty=1.5, prompt=(1,)).choose(np.array([1.0, bad, 2.0], np.float32))


def test_a_row_of_minus_infinity_is_refused() -> None:
    with pytest.raises(NonFiniteLogits):
        sampler().choose(np.full(100, -np.inf, np.float32))


MODES = [
    PLAIN,
    SamplingParams(),
    SamplingParams(mirostat=1),
    SamplingParams(mirostat=2),
    SamplingParams(temperature=0.0),
]
MODES += [SamplingParams(**EVERYTHING), SamplingParams(**{**EVERYTHING, "top_k": 0})]


@pytest.mark.parametrize("params", MODES)
@pytest.mark.parametrize("allowed", [[7], [7, 4000], list(range(0, 5000, 2))])
def test_what_the_constraint_forbids_is_never_drawn(params: SamplingParams, allowed: list[int]) -> None:
    logits = random_logits(8, 5000)
    before = logits.copy()

    def constrain(row: Floats) -> Floats:
        masked = np.full_like(row, -INF)
        masked[allowed] = row[allowed]
        return masked

    chosen = Sampler(params, num_ctx=64, prompt=[7, 7, 7])
    assert {chosen.choose(logits, constrain) for _ in range(50)} <= set(allowed)
    assert np.array_equal(logits, before)


def test_the_constraint_sees_penalized_logits() -> None:
    seen = list[list[float]]()

    def constrain(row: Floats) -> Floats:
        seen.append(row.tolist())
        return row

    sampler(temperature=0.0, repeat_penalty=2.0, prompt=(0,)).choose(np.array([4.0, 3.0], np.float32), constrain)
    assert seen == [[2.0, 3.0]]


def test_no_parameter_value_gives_anything_but_a_token() -> None:
    rows = [random_logits(1, 600), np.array([3e30, -3e30, 0, -INF], np.float32), np.array([5], np.float32)]
    rng = np.random.default_rng(3)
    wild = [-INF, -1e300, -1.0, 0.0, 1e-300, 0.5, 1.0, 2.0, 1e300, INF, NAN]
    integers = [-(2**31), -1, 0, 1, 2, 3, 2**31]
    for _ in range(600):
        numbers = {name: float(rng.choice(wild)) for name in (*EVERYTHING, "mirostat_tau", "mirostat_eta")}
        fields: dict[str, Any] = dict(numbers)
        fields |= {name: int(rng.choice(integers)) for name in ("top_k", "mirostat", "repeat_last_n")}
        for row in rows:
            chosen = sampler(prompt=(0, 0, 0), **fields)
            for _ in range(3):
                token = chosen.choose(row)
                assert 0 <= token < len(row)
                assert row[token] > -INF, fields
