from __future__ import annotations

import random
from collections import Counter

import pytest

from hearthd.engine.recent import Recent


def counted(recent: Recent) -> dict[int, int]:
    assert len(set(recent.ids.tolist())) == len(recent.ids)
    return dict(zip(recent.ids.tolist(), recent.counts.tolist(), strict=True))


@pytest.mark.parametrize("size", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("num_first", [0, 1, 5, 100])
@pytest.mark.parametrize("num_tokens", [1, 3, 30])
def test_the_last_tokens_are_counted(size: int, num_first: int, num_tokens: int) -> None:
    rng = random.Random(size * 1000 + num_first)
    history = [rng.randrange(num_tokens) for _ in range(num_first)]
    recent = Recent(size, history)
    for _ in range(200):
        assert counted(recent) == Counter(history[-size:] if size else [])
        history.append(rng.randrange(num_tokens))
        recent.add(history[-1])
