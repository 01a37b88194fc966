"""The pass over few candidates chooses what the stages choose, one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hearthd.engine import few
from hearthd.engine.candidates import Candidates, drawn
from hearthd.engine.frames import SamplingParams
from hearthd.engine.stages import min_p, temperature, top_p

NUMBERS = [0.0, 1e-12, 0.1, 0.37, 0.5, 0.9, 0.999, 1 - 2**-53]


def by_stages(logits: list[float], params: SamplingParams, uniforms: Iterator[float]) -> int:
    candidates = Candidates(np.arange(len(logits)), np.array(logits), True)
    for stage in (top_p, min_p, temperature):
        candidates = stage(candidates, params)
    return drawn(np.exp(candidates.logits), next(uniforms)) if len(candidates.ids) > 1 else 0


@pytest.mark.parametrize("count", [1, 2, 3, 40, 128])
@pytest.mark.parametrize("share", [-1.0, 0.0, 1e-9, 0.3, 0.9, 0.999999, 1.0, 2.0, float("nan")])
@pytest.mark.parametrize("least", [-1.0, 0.0, 0.05, 0.7, 1.0, 5.0, float("nan")])
@pytest.mark.parametrize("heat", [1e-30, 0.1, 0.8, 1.0, 3.0, 1e30])
def test_one_pass_chooses_as_the_stages_do(count: int, share: float, least: float, heat: float) -> None:
    params = SamplingParams(temperature=heat, top_k=count, top_p=share, min_p=least)
    rows = np.random.default_rng(count).normal(0, 4, (4, count)).astype(np.float32)
    rows[1] = 2.5  # all alike
    rows[2, count // 2 :] = -100.0  # far behind
    for row in np.sort(rows)[:, ::-1].tolist():
        for number in NUMBERS:
            assert few.place(row, params, iter([number])) == by_stages(row, params, iter([number]))


def test_single_candidate_takes_no_number() -> None:
    numbers = iter([0.5])
    assert few.place([3.0, -50.0], SamplingParams(top_p=0.5), numbers) == 0
    assert next(numbers) == 0.5


@pytest.mark.parametrize(
    ("params", "taken"),
    [
        (SamplingParams(), True),
        (SamplingParams(top_k=128), True),
        (SamplingParams(top_k=129), False),
        (SamplingParams(top_k=0), False),
        (SamplingParams(tfs_z=0.9), False),
        (SamplingParams(typical_p=0.9), False),
        (SamplingParams(tfs_z=float("nan")), True),
    ],
)
def test_other_stages_are_left_to_the_stages(params: SamplingParams, taken: bool) -> None:
    assert few.takes(params) is taken
