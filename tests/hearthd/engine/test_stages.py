"""Each stage beside a slow implementation of its definition: loops over Python floats, nothing shared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hearthd.engine import stages
from hearthd.engine.candidates import Candidates, possible
from hearthd.engine.frames import SamplingParams
from hearthd.engine.stages import Floats

INF = math.inf
NAN = math.nan
BEYOND = [-INF, -3.0, -1e-9, 0.0, 1e-9, 1.0, 1.5, 1e300, INF, NAN]  # values at and outside most ranges
FRACTIONS = [0.01, 0.1, 0.3, 0.5, 0.75, 0.9, 0.95, 0.99, 0.9999]


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**fields)


def normal(seed: int, size: int, spread: float = 3.0) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def row(*values: float) -> Floats:
    return np.array(values, np.float32)


ROWS: dict[str, Floats] = {
    "one": row(-4.0),
    "two": row(1.0, 2.0),
    "three": row(0.5, 3.0, 1.0),
    "equal": row(*[2.0] * 9),
    "ties": row(1, 5, 5, 3, 5, 3, 1, 1),
    "huge": row(3e38, -3e38, 3e38, 1e38, 0),
    "tiny": row(1e-40, -1e-40, 0.0, 2e-40, 1e-45),
    "forbidden": row(1, -INF, 2, -INF, 0.5, -INF),
    "one left": row(-INF, -INF, -7.0, -INF),
    "steep": row(*(-60.0 * i for i in range(6))),
    "line": row(*(-0.01 * i for i in range(300))),
    "small": normal(1, 30),
    "flat": normal(2, 400, 0.05),
    "sharp": normal(3, 400, 12.0),
    "wide": normal(4, 1500),
}


def pairs(logits: Floats) -> list[tuple[int, float]]:
    """The tokens that are not forbidden, best first, the lowest ids first among equals."""
    listed = [(token, value) for token, value in enumerate(logits.tolist()) if value > -INF]
    return sorted(listed, key=lambda pair: (-pair[1], pair[0]))


def softmax(values: list[float]) -> list[float]:
    best = max(values)
    weights = [math.exp(value - best) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def plain_top_k(logits: Floats, k: int) -> list[int]:
    return [token for token, _ in pairs(logits)][: k if k > 0 else None]


def plain_top_p(logits: Floats, p: float) -> list[int]:
    kept, total = [], 0.0
    order = pairs(logits)
    if math.isnan(p) or p >= 1:
        return [token for token, _ in order]
    for (token, _), share in zip(order, softmax([value for _, value in order]), strict=True):
        kept.append(token)
        total += share
        if total >= p:
            break
    return kept


def plain_min_p(logits: Floats, p: float) -> list[int]:
    order = pairs(logits)
    if math.isnan(p) or p <= 0:
        return [token for token, _ in order]
    best = order[0][1]  # e to the distance is how likely a token is beside the best
    return [token for token, value in order if value - best >= math.log(min(p, 1.0))]


def plain_typical_p(logits: Floats, p: float) -> list[int]:
    order = sorted(pairs(logits))
    if math.isnan(p) or p >= 1:
        return [token for token, _ in order]
    best = max(value for _, value in order)
    surprise = [best - value for _, value in order]  # less ln of the sum, which no difference of surprises sees
    shares = softmax([value for _, value in order])
    mean = math.fsum(share * s for share, s in zip(shares, surprise, strict=True))
    usual = sorted(range(len(order)), key=lambda place: abs(surprise[place] - mean))
    kept, total = [], 0.0
    for place in usual:
        kept.append(order[place][0])
        total += shares[place]
        if total >= p:
            break
    return kept


def plain_tfs_z(logits: Floats, z: float) -> list[int]:
    tokens = [token for token, _ in pairs(logits)]
    if math.isnan(z) or z >= 1 or len(tokens) <= 2:
        return tokens
    share = softmax([value for _, value in pairs(logits)])
    slope = [share[i] - share[i + 1] for i in range(len(share) - 1)]
    bend = [abs(slope[i] - slope[i + 1]) for i in range(len(slope) - 1)]
    total = sum(bend)
    running = 0.0
    for place, value in enumerate(bend):
        running += value / total if total > 0 else 1 / len(bend)
        if running > z:
            return tokens[: max(place, 1)]
    return tokens


def kept(stage: stages.Stage, logits: Floats, parameters: SamplingParams) -> list[int]:
    before = logits.copy()
    result = stage(possible(logits), parameters)
    assert np.array_equal(before, logits)
    assert [logits[token] for token in result.ids] == result.logits.tolist()
    return sorted(result.ids.tolist())


FILTERS: list[tuple[str, stages.Stage, Callable[[Floats, float], list[int]]]] = [
    ("top_p", stages.top_p, plain_top_p),
    ("min_p", stages.min_p, plain_min_p),
    ("typical_p", stages.typical_p, plain_typical_p),
    ("tfs_z", stages.tfs_z, plain_tfs_z),
]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("field", "stage", "plain"), FILTERS, ids=[name for name, *_ in FILTERS])
def test_a_filter_keeps_what_its_definition_keeps(
    name: str, field: str, stage: stages.Stage, plain: Callable[[Floats, float], list[int]]
) -> None:
    for value in FRACTIONS + BEYOND:
        assert kept(stage, ROWS[name], params(**{field: value})) == sorted(plain(ROWS[name], value)), value


@pytest.mark.parametrize(("field", "stage", "plain"), FILTERS, ids=[name for name, *_ in FILTERS])
def test_a_filter_agrees_with_its_definition_over_random_rows(
    field: str, stage: stages.Stage, plain: Callable[[Floats, float], list[int]]
) -> None:
    rng = np.random.default_rng(11)
    for _ in range(300):
        size = int(rng.integers(1, 80))
        logits = rng.normal(0, rng.choice([0.1, 1, 4, 20]), size).astype(np.float32).round(int(rng.integers(1, 8)))
        logits[rng.random(size) < 0.1] = -INF
        logits[int(rng.integers(size))] = 1.0
        value = float(rng.random())
        assert kept(stage, logits, params(**{field: value})) == sorted(plain(logits, value)), (logits, value)


@pytest.mark.parametrize("k", [*range(-1, 6), 40, 300, 1499, 1500, 10**9, -(10**9)])
@pytest.mark.parametrize("name", ROWS)
def test_top_k_gives_the_k_best_lowest_ids_first_among_equals(name: str, k: int) -> None:
    got = stages.top_k(ROWS[name], k)
    assert sorted(got.ids.tolist()) == sorted(plain_top_k(ROWS[name], k))
    assert got.logits.tolist() == ROWS[name][got.ids].tolist()


@pytest.mark.parametrize("k", [1, 2, 40, 300, 4096, 20_000])
@pytest.mark.parametrize("digits", [0, 2, 7])
@pytest.mark.parametrize("forbidden", [0.0, 0.999])
def test_top_k_of_a_large_row_is_in_order_too(k: int, digits: int, forbidden: float) -> None:
    logits = normal(5, 49_152).round(digits)
    logits[np.random.default_rng(6).random(len(logits)) < forbidden] = -INF
    assert stages.top_k(logits, k).ids.tolist() == plain_top_k(logits, k)


LARGE: dict[str, Floats] = {
    "normal": normal(7, 20_000),
    "flat": normal(8, 20_000, 1e-3),
    "nearly equal": 1e-35 * normal(8, 20_000),
    "sharp": normal(9, 20_000, 15.0),
    "equal": np.zeros(20_000, np.float32),
    "one above": np.concatenate((row(25.0), normal(10, 20_000, 1e-4))),
    "steps": normal(11, 20_000).round(0),
    "forbidden": np.where(np.random.default_rng(12).random(20_000) < 0.5, -INF, normal(13, 20_000)).astype(np.float32),
    "bottomless": np.concatenate((normal(14, 10_000), np.full(10_000, -3e38, np.float32))),
}


@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 0.9, 0.999, 0.9999999])
@pytest.mark.parametrize("name", LARGE)
def test_top_p_of_a_large_row_is_the_fewest_best_that_reach_p(name: str, p: float) -> None:
    logits = LARGE[name]
    order = plain_top_k(logits, 0)
    count = len(kept(stages.top_p, logits, params(top_p=p)))
    assert kept(stages.top_p, logits, params(top_p=p)) == sorted(order[:count])
    share = softmax(logits[order].tolist())
    assert math.fsum(share[:count]) >= p * (1 - 1e-6)
    assert count == 1 or math.fsum(share[: count - 1]) <= p * (1 + 1e-6)


@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", LARGE)
def test_typical_p_of_a_large_row_reaches_p_with_nothing_to_spare(name: str, p: float) -> None:
    logits = LARGE[name].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        surprise = -np.log(share)
        off = np.abs(surprise - np.nansum(share * np.minimum(surprise, 1e9)))
    left = kept(stages.typical_p, LARGE[name], params(typical_p=p))
    dropped = np.setdiff1d(np.flatnonzero(logits > -INF), left)
    assert share[left].sum() >= p * (1 - 1e-5)
    assert len(left) == 1 or share[left].sum() - share[left][off[left].argmax()] <= p * (1 + 1e-5) + 1e-5
    assert not len(dropped) or off[left].max() <= off[dropped].min() + 1e-5


@pytest.mark.parametrize("z", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("name", LARGE)
def test_tfs_z_of_a_large_row_is_a_run_of_the_best(name: str, z: float) -> None:
    left = kept(stages.tfs_z, LARGE[name], params(tfs_z=z))
    assert left == sorted(plain_top_k(LARGE[name], 0)[: len(left)])
    if name == "sharp":
        assert len(left) == len(plain_tfs_z(LARGE[name], z))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("value", [1e-12, 1e-6, 0.1, 0.8, 1.0, 2.0, 50.0, 1e30, 1e300, INF])
def test_temperature_divides_the_distances_from_the_best(name: str, value: float) -> None:
    candidates = possible(ROWS[name])
    got = stages.temperature(candidates, params(temperature=value))
    best = max(candidates.logits.tolist())
    want = [(logit - best) / min(max(value, 1e-6), 1e30) for logit in candidates.logits.tolist()]
    assert got.logits.tolist() == pytest.approx(want, rel=1e-6)
    assert got.ids.tolist() == candidates.ids.tolist()


def test_temperature_of_a_large_row_gives_numbers_at_every_setting() -> None:
    for value in (1e-12, 1.0, 1e30, INF):
        got = stages.temperature(Candidates(np.arange(20_000), LARGE["bottomless"]), params(temperature=value))
        assert not np.isnan(got.logits).any()
        assert got.logits.max() == 0


def plain_penalized(logits: Floats, recent: list[int], parameters: SamplingParams) -> list[float]:
    values = [float(value) for value in logits]
    for token, count in Counter(recent).items():
        value = values[token]
        value = value / parameters.repeat_penalty if value > 0 else value * parameters.repeat_penalty
        values[token] = value - parameters.presence_penalty - count * parameters.frequency_penalty
    return values


@pytest.mark.parametrize("repeat", [0.5, 1.0, 1.1, 3.0])
@pytest.mark.parametrize("presence", [-0.5, 0.0, 0.8])
@pytest.mark.parametrize("frequency", [-0.1, 0.0, 0.7])
def test_penalties_change_only_recent_tokens_by_the_published_formulas(
    repeat: float, presence: float, frequency: float
) -> None:
    parameters = params(repeat_penalty=repeat, presence_penalty=presence, frequency_penalty=frequency)
    logits = normal(3, 50)
    logits[30], logits[31] = 0.0, -INF
    recent = [4, 9, 4, 30, 4, 31, 9, 0]
    ids, counts = np.unique(recent, return_counts=True)
    before = logits.copy()
    got = stages.penalized(logits, ids, counts, stages.penalties(parameters))
    assert got.tolist() == pytest.approx(plain_penalized(logits, recent, parameters), abs=1e-5)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("field", ["repeat_penalty", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", [*BEYOND, -1e300, 1e-300])
def test_penalties_beyond_all_measure_leave_finite_logits(field: str, value: float) -> None:
    logits = row(3e30, -3e30, 1.0, 0.0, -INF)
    opposed = {"presence_penalty": INF, "frequency_penalty": -INF, field: value}
    for parameters in (params(**{field: value}), params(**opposed)):
        got = stages.penalized(logits, np.arange(5), np.full(5, 10**5), stages.penalties(parameters))
        assert np.isfinite(got[:4]).all()
        assert got[4] == -INF


@pytest.mark.parametrize("value", [0.0, -2.0, NAN])
def test_a_repeat_penalty_of_zero_or_less_is_off(value: float) -> None:
    assert stages.penalties(params(repeat_penalty=value)) == (1.0, 0.0, 0.0)


def test_every_stage_leaves_one_candidate_at_least_whatever_the_parameters() -> None:
    for name, logits in ROWS.items():
        for value in BEYOND:
            parameters = params(
                temperature=value, top_p=value, min_p=value, tfs_z=value, typical_p=value, repeat_penalty=value
            )
            candidates = stages.top_k(logits, 7)
            for stage in stages.STAGES:
                candidates = stage(candidates, parameters)
                assert len(candidates.ids) >= 1, (name, value, stage)
                assert not np.isnan(candidates.logits).any(), (name, value, stage)
