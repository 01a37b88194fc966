"""The last stages and the draw for few ranked candidates, in one pass over Python's floats.

Behind a decode step a NumPy call finds nothing of its code in the caches and takes 4 to 12 microseconds, as long as
the arithmetic of forty candidates here. The stages are those of `stages.py`, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp

from hearthd.engine.frames import SamplingParams
from hearthd.engine.stages import MAX_TEMPERATURE, MIN_TEMPERATURE

MAX_FEW = 128


def takes(params: SamplingParams) -> bool:
    """Whether `place` does all that `params` asks for after top_k."""
    return 0 < params.top_k <= MAX_FEW and not params.tfs_z < 1.0 and not params.typical_p < 1.0


def place(logits: list[float], params: SamplingParams, uniforms: Iterator[float]) -> int:
    """Where among (n,) falling logits the draw falls, after top_p, min_p and temperature; one alone takes no number."""
    best = logits[0]
    weights = [exp(logit - best) for logit in logits]
    if params.top_p < 1.0:
        del weights[_num_reaching(weights, params.top_p * sum(weights)) :]
    if params.min_p > 0.0:
        weights = [weight for weight in weights if weight >= min(params.min_p, 1.0)]
    if len(weights) == 1:
        return 0
    divisor = min(max(MIN_TEMPERATURE, params.temperature), MAX_TEMPERATURE)
    shares = [exp((logit - best) / divisor) for logit in logits[: len(weights)]]
    return _num_reaching(shares, next(uniforms) * sum(shares), passing=True) - 1


def _num_reaching(weights: list[float], target: float, *, passing: bool = False) -> int:
    """How many of the first weights add up to `target`, or pass it; as many as are above 0 where none do."""
    reached, last = 0.0, 1
    for count, weight in enumerate(weights, 1):
        reached += weight
        if reached > target or (reached == target and not passing):
            return count
        last = count if weight else last
    return last
