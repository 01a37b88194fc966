from __future__ import annotations

import math

import numpy as np
import pytest

from hearthd.engine.logprobs import logprob_of
from hearthd.engine.sampler import Floats


def text_of(token: int) -> bytes:
    return f"<{token}>".encode()


def plain(logits: Floats) -> list[float]:
    values = logits.tolist()
    best = max(values)
    total = best + math.log(math.fsum(math.exp(value - best) for value in values))
    return [value - total for value in values]


@pytest.mark.parametrize("size", [1, 2, 50, 5000, 49_152])
@pytest.mark.parametrize("spread", [0.1, 3.0, 20.0])
def test_logprobs_are_the_natural_log_softmax_likeliest_first(size: int, spread: float) -> None:
    logits = np.random.default_rng(size).normal(0, spread, size).astype(np.float32)
    want = plain(logits)
    got = logprob_of(logits, size // 2, 20, text_of)
    assert got.logprob == pytest.approx(want[size // 2], abs=2e-5)
    order = sorted(range(size), key=lambda token: (-want[token], token))[:20]
    assert [entry.token for entry in got.top] == [f"<{token}>" for token in order]
    assert [entry.logprob for entry in got.top] == pytest.approx([want[token] for token in order], abs=2e-5)


@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
def test_there_are_as_many_likeliest_tokens_as_asked(num_top: int) -> None:
    logits = np.random.default_rng(1).normal(0, 3, 1000).astype(np.float32)
    assert len(logprob_of(logits, 3, num_top, text_of).top) == num_top


def test_there_are_no_more_likeliest_tokens_than_tokens() -> None:
    assert len(logprob_of(np.zeros(3, np.float32), 0, 20, text_of).top) == 3


def test_of_equally_likely_tokens_the_lowest_ids_come_first() -> None:
    got = logprob_of(np.zeros(6000, np.float32), 9, 3, text_of)
    assert [entry.token for entry in got.top] == ["<0>", "<1>", "<2>"]
    assert got.logprob == pytest.approx(-math.log(6000))


def test_the_chosen_token_need_not_be_among_the_likeliest() -> None:
    got = logprob_of(np.array([5.0, 0.0, 4.0], np.float32), 1, 2, text_of)
    assert got.token == "<1>"
    assert [entry.token for entry in got.top] == ["<0>", "<2>"]


def test_tokens_at_minus_infinity_are_not_among_the_likeliest_and_every_number_is_finite() -> None:
    got = logprob_of(np.array([-math.inf, 1.0, -math.inf], np.float32), 0, 3, text_of)
    assert [entry.token for entry in got.top] == ["<1>"]
    assert got.top[0].logprob == pytest.approx(0.0)
    assert math.isfinite(got.logprob)


def test_huge_logits_do_not_overflow() -> None:
    got = logprob_of(np.array([3e38, -3e38, 3e38], np.float32), 0, 3, text_of)
    assert [entry.logprob for entry in got.top] == pytest.approx([-math.log(2), -math.log(2), -1e30], rel=1e-6)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"\xe2\x82\xac", "€"), (b"\xe2\x82", "�"), (b"\xac", "�"), (b"a\xff", "a�"), (b"", ""), (b"\x00", "\x00")],
)
def test_a_token_that_is_no_text_alone_has_replacement_characters_and_its_true_bytes(data: bytes, text: str) -> None:
    got = logprob_of(np.zeros(2, np.float32), 1, 1, lambda _: data)
    assert (got.token, got.bytes) == (text, list(data))
    assert (got.top[0].token, got.top[0].bytes) == (text, list(data))


def test_the_row_is_left_as_it_is() -> None:
    logits = np.random.default_rng(2).normal(0, 3, 5000).astype(np.float32)
    before = logits.copy()
    logprob_of(logits, 0, 20, text_of)
    assert np.array_equal(logits, before)
