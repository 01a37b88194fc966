"""How likely the model thought a token, and which others it thought likely."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hearthd.engine.candidates import Candidates, weights
from hearthd.engine.frames import Logprob, TopLogprob
from hearthd.engine.ranking import largest
from hearthd.engine.stages import Floats

LEAST = -1e30  # stands for a logprob of -inf, which JSON cannot say


def logprob_of(logits: Floats, token: int, num_top: int, token_text: Callable[[int], bytes]) -> Logprob:
    """The natural log-softmax of the row `logits` (V,) at `token`, and its `num_top` likeliest tokens, likeliest first.

    Of equally likely tokens the lowest ids; tokens at -inf are never among them. `token_text` gives a token's bytes,
    of which `token` is the text, with U+FFFD for what is no UTF-8. The best logit must be finite.
    """
    best = float(logits.max())
    log_total = math.log(float(weights(Candidates(np.empty(0, np.int64), logits)).sum(dtype=np.float64)))

    def entry(token: int) -> TopLogprob:
        text = token_text(token)
        logprob = float(logits[token]) - best - log_total
        return TopLogprob(text.decode("utf-8", "replace"), max(logprob, LEAST), list(text))

    chosen = entry(token)
    top = largest(logits, num_top).tolist() if num_top > 0 else []
    return Logprob(chosen.token, chosen.logprob, chosen.bytes, [entry(other) for other in top])
