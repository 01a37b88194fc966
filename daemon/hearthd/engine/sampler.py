"""The choice of the next token of one request: its stages in order, its random numbers, its recent tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hearthd.engine import few
from hearthd.engine.candidates import Candidates, NonFiniteLogits, best_ids, drawn
from hearthd.engine.frames import SamplingParams
from hearthd.engine.mirostat import Mirostat
from hearthd.engine.recent import Recent
from hearthd.engine.stages import STAGES, Floats, penalized, penalties, temperature, top_k

__all__ = ["Floats", "NonFiniteLogits", "Sampler"]


def uniforms(seed: int) -> Iterator[float]:
    """Random numbers of [0, 1) without end; the same for the same 64 bits of `seed`, afresh for -1.

    Python's own: importing numpy.random takes 17 ms of the first answer and 7 MiB for as long as the model is loaded.
    """
    draw = random.Random(None if seed == -1 else seed & 0xFFFF_FFFF_FFFF_FFFF).random
    while True:
        yield draw()


def best_token(logits: Floats) -> int:
    """The id of the largest logit of (V,); the lowest such id on a tie. Raises NonFiniteLogits."""
    token = int(logits.argmax())
    if not math.isfinite(logits[token]):
        raise NonFiniteLogits
    return token


class Sampler:
    """Chooses the tokens of one request.

    `newline_ids` are what penalties spare where `penalize_newline` is False. A `repeat_last_n` below 0 or above
    `num_ctx` means `num_ctx`.
    """

    def __init__(
        self, params: SamplingParams, *, num_ctx: int, prompt: Iterable[int], newline_ids: Iterable[int] = ()
    ) -> None:
        self._params = params
        self._penalties = penalties(params)
        self._penalizes = self._penalties != (1.0, 0.0, 0.0)
        last_n = num_ctx if params.repeat_last_n < 0 else min(params.repeat_last_n, num_ctx)
        self._recent = Recent(last_n, prompt) if self._penalizes else Recent(0)
        self._spared = np.array([] if params.penalize_newline else list(newline_ids), np.int64)
        self._mirostat = Mirostat(params) if params.mirostat in (1, 2) else None
        self._takes_few = few.takes(params)
        self._uniforms = uniforms(params.seed)

    def choose(self, logits: Floats, constrain: Callable[[Floats], Floats] | None = None) -> int:
        """The next token for the row `logits` (V,) float32, which is left as it is.

        `constrain` gives a row like its argument in which forbidden tokens are at -inf. Raises NonFiniteLogits.
        """
        if self._penalizes:
            logits = self._penalized(logits)
        if constrain is not None:
            logits = constrain(logits)
        if not self._params.temperature > 0:
            token = best_token(logits)
        elif self._mirostat is not None:
            token = self._mirostatic(logits, self._mirostat)
        elif self._takes_few:
            token = self._of_few(logits)
        else:
            token = self._staged(logits)
        if self._penalizes:
            self._recent.add(token)
        return token

    def _penalized(self, logits: Floats) -> Floats:
        row = penalized(logits, self._recent.ids, self._recent.counts, self._penalties)
        if len(self._spared):
            row[self._spared] = logits[self._spared]
        return row

    def _of_few(self, logits: Floats) -> int:
        ids = best_ids(logits, self._params.top_k)
        return int(ids[few.place(logits[ids].tolist(), self._params, self._uniforms)])

    def _staged(self, logits: Floats) -> int:
        candidates = top_k(logits, self._params.top_k)
        for stage in STAGES:
            if len(candidates.ids) == 1:
                break
            candidates = stage(candidates, self._params)
        return int(candidates.ids[self._place(candidates)])

    def _mirostatic(self, logits: Floats, mirostat: Mirostat) -> int:
        candidates = mirostat.keep(temperature(top_k(logits, 0), self._params), len(logits))
        place = self._place(candidates)
        mirostat.learn(candidates, place)
        return int(candidates.ids[place])

    def _place(self, candidates: Candidates) -> int:
        """Where among candidates whose best logit is 0 the draw falls; a single one needs none."""
        return drawn(np.exp(candidates.logits), next(self._uniforms)) if len(candidates.ids) > 1 else 0
