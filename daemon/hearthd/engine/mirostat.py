"""Mirostat: keeps the surprise of the text near a target (Basu et al. 2020, https://arxiv.org/abs/2007.14966).

Version 1 is the paper's Algorithm 1. Version 2, its authors' simplification, drops the candidates that are more
surprising than the limit instead of estimating how many those are. In both the surprise of the chosen token is
measured among the candidates left, as llama.cpp does; the paper measures it among all.
"""

from __future__ import annotations

import math

import numpy as np

from hearthd.engine.candidates import Candidates, shifted, weights
from hearthd.engine.frames import SamplingParams
from hearthd.engine.ranking import Keys, largest

NUM_ESTIMATED = 100  # best candidates that the exponent of Zipf's law is estimated from
MAX_BITS = 1e6  # of a limit of surprise; no row comes near


def zipf_exponent(logits: Keys) -> float:
    """The exponent s of Zipf's law that fits (n,) descending logits best by least squares; 0 for fewer than two."""
    steps = np.arange(1, len(logits))
    log_ranks = np.log((steps + 1) / steps)
    falls = -np.diff(logits.astype(np.float64))
    return float(log_ranks @ falls / (log_ranks @ log_ranks)) if len(steps) else 0.0


def num_within(exponent: float, limit: float, vocab_size: int) -> int:
    """How many best tokens are not more surprising than `limit` bits by Zipf's law: 1 to `vocab_size`."""
    if vocab_size == 1:
        return 1
    log_size = math.log(vocab_size)
    excess = exponent - 1
    power = excess * log_size
    ratio = 1 / log_size if abs(power) < 1e-9 else excess / -math.expm1(-power)
    log_count = limit * math.log(2) + math.log(ratio)
    if log_count >= log_size * exponent:
        return vocab_size
    return max(1, int(math.exp(log_count / exponent))) if log_count > 0 else 1


class Mirostat:
    """The limit of surprise, learnt token by token; it starts at twice the target.

    Negative targets and learning rates count as 0, NaN as the default.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._version = params.mirostat
        self._target = _within(params.mirostat_tau, 5.0)  # bits
        self._rate = _within(params.mirostat_eta, 0.1)
        self.limit = 2 * self._target  # bits

    def keep(self, candidates: Candidates, vocab_size: int) -> Candidates:
        """Those that are not too surprising, the best at least."""
        return self._by_rank(candidates, vocab_size) if self._version == 1 else self._by_surprise(candidates)

    def _by_rank(self, candidates: Candidates, vocab_size: int) -> Candidates:
        best = candidates.logits[largest(candidates.logits, NUM_ESTIMATED)]  # descending
        count = num_within(zipf_exponent(best), self.limit, vocab_size)
        return candidates if count >= len(candidates.ids) else candidates.at(largest(candidates.logits, count))

    def _by_surprise(self, candidates: Candidates) -> Candidates:
        falls = shifted(candidates)
        log_total = math.log(float(np.exp(falls).sum(dtype=np.float64)))
        floor = log_total - self.limit * math.log(2)
        return candidates.at(falls >= floor if floor <= 0 else largest(falls, 1))

    def learn(self, candidates: Candidates, place: int) -> None:
        """Moves the limit, for the token at `place` was drawn from `candidates`."""
        shares = weights(candidates)
        surprise = -math.log2(float(shares[place]) / float(shares.sum(dtype=np.float64)))
        moved = self.limit - self._rate * (surprise - self._target)
        self.limit = min(max(moved, -MAX_BITS), MAX_BITS)


def _within(value: float, default: float) -> float:
    return default if math.isnan(value) else min(max(value, 0.0), MAX_BITS)
