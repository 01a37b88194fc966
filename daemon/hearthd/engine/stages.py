"""What a sampler does to the candidates for the next token, one function a stage.

The order is that of llama.cpp: penalties and the constraint on the whole row, then top_k, tfs_z, typical_p, top_p,
min_p and temperature. All but the last look at the probabilities of what the stages before them left, as they are
at temperature 1. A parameter beyond its range means its nearest sensible value, and NaN means off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.candidates import MANY, Candidates, Ids, best_possible, possible, shifted, weights
from hearthd.engine.frames import SamplingParams
from hearthd.engine.ranking import Keys, fewest, largest

Floats = NDArray[np.float32]
Stage = Callable[[Candidates, SamplingParams], Candidates]

MAX_REPEAT = 1000.0
MAX_PENALTY = 1e6  # more than any logits differ
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e30


def penalized(logits: Floats, ids: Ids, counts: Ids, strengths: tuple[float, float, float]) -> Floats:
    """A copy of the row `logits` (V,) in which the tokens `ids` (n,), seen `counts` (n,) times, are less likely.

    Repetition divides positive and multiplies negative logits (Keskar et al. 2019, CTRL, section 4.1); presence
    subtracts once, frequency once an occurrence (the OpenAI API's definition). `strengths` come from `penalties`.
    """
    repeat, presence, frequency = strengths
    values = logits[ids].astype(np.float64)
    if repeat != 1.0:  # of the quotient and the product, positive and negative values take the same one of the two
        values = (np.minimum if repeat > 1 else np.maximum)(values / repeat, values * repeat)
    if presence or frequency:
        values -= presence + counts * frequency
    row = logits.copy()
    row[ids] = values
    return row


def penalties(params: SamplingParams) -> tuple[float, float, float]:
    """The factor for repetition (1.0: off), and what presence and frequency (0.0: off) subtract; all finite.

    Below 1 and 0 they make a token likelier; a repeat_penalty of 0 or less is off.
    """
    repeat = params.repeat_penalty if params.repeat_penalty > 0 else 1.0
    repeat = min(max(repeat, 1 / MAX_REPEAT), MAX_REPEAT)
    return repeat, _subtracted(params.presence_penalty), _subtracted(params.frequency_penalty)


def _subtracted(penalty: float) -> float:
    return 0.0 if math.isnan(penalty) else min(max(penalty, -MAX_PENALTY), MAX_PENALTY)


def top_k(logits: Keys, k: int) -> Candidates:
    """The `k` largest logits of the row (V,), best first; all where k <= 0 (Fan et al. 2018).

    Of equal logits the lowest ids. Tokens at -inf are never among them. Raises NonFiniteLogits.
    """
    return best_possible(logits, k) if 0 < k < len(logits) else possible(logits)


def tfs_z(candidates: Candidates, params: SamplingParams) -> Candidates:
    """The best candidates, before the tail in which probabilities hardly bend any more.

    Of the probabilities in falling order, the absolute second differences are scaled to a sum of 1; as many
    candidates stay as differences add up to `tfs_z` at most, one at least. Off from 1 on, and for two candidates or
    less. Bricken 2019, https://www.trentonbricken.com/Tail-Free-Sampling/, counted as in llama.cpp.
    """
    if not params.tfs_z < 1.0 or len(candidates.ids) <= 2:
        return candidates
    bends = np.abs(np.diff(np.sort(weights(candidates))[::-1], 2))
    total = float(bends.sum(dtype=np.float64))
    reached = (bends / total if total > 0 else np.full(len(bends), 1 / len(bends))).cumsum(dtype=np.float64)
    count = int(reached.searchsorted(params.tfs_z, side="right"))
    if count == len(bends):
        return candidates
    best = max(count, 1)
    return candidates.first(best) if candidates.is_ranked else candidates.at(largest(candidates.logits, best))


def typical_p(candidates: Candidates, params: SamplingParams) -> Candidates:
    """The fewest candidates whose probabilities reach `typical_p`, those of the most usual surprise first.

    Usual is a surprise, -ln p, near its mean, the entropy (Meister et al. 2022, Locally Typical Sampling).
    Off from 1 on; the most typical candidate alone from 0 down.
    """
    if not params.typical_p < 1.0:
        return candidates
    falls = np.maximum(shifted(candidates), -1e30)
    shares = np.exp(falls)
    total = float(shares.sum(dtype=np.float64))
    mean = float(np.multiply(shares, falls).sum(dtype=np.float64)) / total  # ln of the sum cancels
    return candidates.at(fewest(-np.abs(falls - falls.dtype.type(mean)), shares, params.typical_p * total))


def top_p(candidates: Candidates, params: SamplingParams) -> Candidates:
    """The fewest best candidates whose probabilities reach `top_p` (Holtzman et al. 2020, section 3.1).

    Off from 1 on; the best alone from 0 down.
    """
    if not params.top_p < 1.0:
        return candidates
    shares = weights(candidates)
    if candidates.is_ranked:
        reached = shares.cumsum()
        return candidates.first(int(reached.searchsorted(params.top_p * reached[-1])) + 1)
    total = float(shares.sum(dtype=np.float64))
    if len(shares) > MANY:  # those below the limit do not add up to 1 - top_p even if they are all
        likely = (shares >= (1 - max(params.top_p, 0.0)) * total / len(shares)).nonzero()[0]
        candidates, shares = candidates.at(likely), shares[likely]
    return candidates.at(fewest(candidates.logits, shares, params.top_p * total))


def min_p(candidates: Candidates, params: SamplingParams) -> Candidates:
    """The candidates at least `min_p` times as likely as the best one (Nguyen et al. 2024).

    Off from 0 down; the best one and its equals from 1 on.
    """
    if not params.min_p > 0.0:
        return candidates
    is_likely = shifted(candidates) >= math.log(min(params.min_p, 1.0))
    return candidates.first(int(np.count_nonzero(is_likely))) if candidates.is_ranked else candidates.at(is_likely)


def temperature(candidates: Candidates, params: SamplingParams) -> Candidates:
    """Logits divided by `temperature`, shifted so that the best is 0 (Ackley et al. 1985)."""
    falls = shifted(candidates)
    divisor = falls.dtype.type(min(max(MIN_TEMPERATURE, params.temperature), MAX_TEMPERATURE))
    if falls.dtype == np.float64:
        falls /= divisor
    else:
        with np.errstate(over="ignore"):
            falls /= divisor
    return Candidates(candidates.ids, falls, candidates.is_ranked)


STAGES: tuple[Stage, ...] = (tfs_z, typical_p, top_p, min_p, temperature)  # after top_k, which makes the candidates
