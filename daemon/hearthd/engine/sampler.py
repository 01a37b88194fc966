"""The choice of the next token: a list of stages over the candidates, then a draw.

The order is llama.cpp's: penalties, then at temperature 0 the best token, otherwise top_k, top_p,
min_p, temperature, draw. top_p and min_p therefore look at probabilities before the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.frames import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.integer[Any]]

NUM_BLOCKS = 64  # rows of the table whose column maxima bound the k-th best logit


class NonFiniteLogits(ArithmeticError):
    """The model gave no usable logit: its best one is NaN or infinite."""

    def __init__(self) -> None:
        super().__init__("the model computed values that are not finite numbers; its weights or conversion are damaged")


@dataclass(slots=True, frozen=True)
class Candidates:
    """Tokens still in the draw, best first."""

    ids: Ids  # (n,)
    logits: Floats  # (n,) descending


Stage = Callable[[Candidates, SamplingParams], Candidates]


def penalized(logits: Floats, recent: Ids, params: SamplingParams) -> Floats:
    """A copy of `logits` (V,) in which the tokens of `recent` are made less likely.

    Repetition divides positive and multiplies negative logits (Keskar et al. 2019, CTRL, section 4.1);
    presence subtracts once, frequency once an occurrence (the OpenAI API's definition).
    """
    ids, counts = np.unique(recent, return_counts=True)
    row = logits.copy()
    values = row[ids]
    values = np.where(values > 0, values / params.repeat_penalty, values * params.repeat_penalty)
    row[ids] = values - params.presence_penalty - counts * params.frequency_penalty
    return row


def best_token(logits: Floats) -> int:
    """The id of the largest logit of (V,); the lowest such id on a tie. Raises NonFiniteLogits."""
    token = int(logits.argmax())
    if not math.isfinite(logits[token]):
        raise NonFiniteLogits
    return token


def _at_least_kth(logits: Floats, k: int) -> Ids:
    """Ids of a small superset of the k largest of (V,): those not below the k-th largest block maximum."""
    width = len(logits) // NUM_BLOCKS
    if k * 4 > width:
        return np.argpartition(logits, len(logits) - k)[-k:]
    body = logits[: width * NUM_BLOCKS]
    maxima = body.reshape(NUM_BLOCKS, width).max(axis=0)
    floor = np.partition(maxima, width - k)[width - k]
    return np.flatnonzero(logits >= floor)


def _ordered(logits: Floats, ids: Ids, k: int) -> Candidates:
    kept = ids[np.argsort(-logits[ids])[:k]]
    return Candidates(kept, logits[kept])


def top_k(logits: Floats, k: int) -> Candidates:
    """The `k` largest logits of (V,), best first; all of them where k <= 0 (Fan et al. 2018).

    Raises NonFiniteLogits where the best one is NaN or infinite.
    """
    if not math.isfinite(logits.max()):
        raise NonFiniteLogits
    if k <= 0 or k >= len(logits):
        order = np.argsort(-logits)
        return Candidates(order, logits[order])
    return _ordered(logits, _at_least_kth(logits, k), k)


def probabilities(logits: Floats) -> NDArray[np.float64]:
    """Softmax of (n,) logits, float64."""
    weights = np.exp((logits - logits.max()).astype(np.float64))
    return np.asarray(weights / weights.sum())


def top_p(candidates: Candidates, params: SamplingParams) -> Candidates:
    """The fewest best candidates whose probabilities reach `top_p`, one at least (Holtzman et al. 2020)."""
    if params.top_p >= 1.0:
        return candidates
    reached = probabilities(candidates.logits).cumsum()
    count = int(np.searchsorted(reached, params.top_p, side="left")) + 1
    return Candidates(candidates.ids[:count], candidates.logits[:count])


def min_p(candidates: Candidates, params: SamplingParams) -> Candidates:
    """Candidates at least `min_p` times as likely as the best one (Nguyen et al. 2024)."""
    if params.min_p <= 0.0:
        return candidates
    floor = float(candidates.logits[0]) + math.log(min(params.min_p, 1.0))
    count = max(1, int(np.count_nonzero(candidates.logits >= floor)))
    return Candidates(candidates.ids[:count], candidates.logits[:count])


def temperature(candidates: Candidates, params: SamplingParams) -> Candidates:
    """Logits divided by `temperature`, which is above 0 here."""
    return Candidates(candidates.ids, candidates.logits / np.float32(max(params.temperature, 1e-6)))


STAGES: tuple[Stage, ...] = (top_p, min_p, temperature)  # after top_k, which makes the candidates


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(None if seed == -1 else seed & 0xFFFF_FFFF_FFFF_FFFF))


class Recent:
    """The last tokens, as many as the penalties look at; their order is not kept."""

    def __init__(self, size: int) -> None:
        self._ring = np.zeros(size, np.int64)
        self._count = 0

    def add(self, token: int) -> None:
        if len(self._ring):
            self._ring[self._count % len(self._ring)] = token
            self._count += 1

    @property
    def ids(self) -> Ids:
        return self._ring[: self._count]


class Sampler:
    """Chooses the tokens of one request; remembers its recent ones and its random state."""

    def __init__(self, params: SamplingParams, *, num_ctx: int, prompt: Iterable[int]) -> None:
        self._params = params
        self._penalizes = params.repeat_penalty != 1.0 or bool(params.presence_penalty or params.frequency_penalty)
        last_n = num_ctx if params.repeat_last_n < 0 else min(params.repeat_last_n, num_ctx)
        self._recent = Recent(last_n if self._penalizes else 0)
        self._rng = _generator(params.seed)
        for token in prompt if self._penalizes else ():
            self._recent.add(token)

    def choose(self, logits: Floats) -> int:
        """The next token for the row `logits` (V,) float32, which is left as it is. Raises NonFiniteLogits."""
        if self._penalizes and len(self._recent.ids):
            logits = penalized(logits, self._recent.ids, self._params)
        token = best_token(logits) if self._params.temperature <= 0 else self._draw(logits)
        self._recent.add(token)
        return token

    def _draw(self, logits: Floats) -> int:
        params = self._params
        if params.top_k <= 0 and params.top_p >= 1.0 and params.min_p <= 0.0:
            best_token(logits)  # refuses a row that is not finite
            return self._index(temperature(Candidates(np.empty(0, np.int64), logits), params).logits)
        candidates = top_k(logits, params.top_k)
        for stage in STAGES:
            candidates = stage(candidates, params)
        return int(candidates.ids[self._index(candidates.logits)])

    def _index(self, logits: Floats) -> int:
        """A place in (n,) logits, drawn by their probabilities."""
        reached = probabilities(logits).cumsum()
        index = int(np.searchsorted(reached, self._rng.random() * reached[-1], side="right"))
        return min(index, len(reached) - 1)
