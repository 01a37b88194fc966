"""What a window does to prompts and answers, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.daemon import Daemon

WORDS = "one two three four five six seven eight nine ten " * 40
VARIED = {"temperature": 50.0, "top_k": 20, "top_p": 1.0}  # a model of random weights says the same for ever otherwise
TOO_LONG = "the prompt is longer than the context length"


def generate(daemon: Daemon, **fields: Any) -> dict[str, Any]:
    response = daemon.post("/api/generate", **{"model": "tiny", "stream": False, "raw": True} | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_answer_goes_on_beyond_the_window(daemon: Daemon) -> None:
    options = {"num_ctx": 64, "num_predict": 300, "seed": 4, **VARIED}
    first, again = (generate(daemon, prompt="Once", options=options) for _ in range(2))
    assert (first["eval_count"], first["done_reason"]) == (300, "length")
    assert first["response"] == again["response"]


def test_answer_that_may_not_shift_ends_with_the_window(daemon: Daemon) -> None:
    options = {"num_ctx": 64, "num_predict": 300, "seed": 4, **VARIED}
    answer = generate(daemon, prompt="Once", options=options, shift=False)
    assert answer["done_reason"] == "length"
    assert answer["prompt_eval_count"] + answer["eval_count"] == 64 + 1  # the last token is chosen, not evaluated


def test_answer_ends_after_ten_windows(daemon: Daemon) -> None:
    options = {"num_ctx": 16, "num_predict": 10_000, "seed": 4, **VARIED}
    assert generate(daemon, prompt="Once", options=options)["eval_count"] <= 160


def test_model_that_repeats_itself_is_stopped_with_a_whole_answer(daemon: Daemon) -> None:
    options = {"num_ctx": 256, "temperature": 0, "num_predict": -1}
    *chunks, last = daemon.lines("/api/generate", model="tiny", raw=True, prompt="a", options=options)
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert last["eval_count"] < 2560
    assert len({chunk["response"].strip() for chunk in chunks[-30:]}) == 1


def test_prompt_longer_than_the_window_keeps_its_ends(daemon: Daemon) -> None:
    options = {"num_ctx": 128, "num_predict": 1, "num_keep": 8}
    answer = generate(daemon, prompt=WORDS, options=options)
    assert answer["prompt_eval_count"] == 128 - (128 - 8) // 2


@pytest.mark.parametrize("flag", ["truncate", "shift"])
def test_prompt_that_may_not_be_cut_is_refused(daemon: Daemon, flag: str) -> None:
    response = daemon.post("/api/generate", model="tiny", prompt=WORDS, options={"num_ctx": 128}, **{flag: False})
    assert response.status_code == 400
    assert TOO_LONG in response.json()["error"]


def test_context_of_an_answer_continues_it(daemon: Daemon) -> None:
    options = {"num_predict": 6, "temperature": 0}
    first = generate(daemon, prompt="hello", raw=False, options=options)
    second = generate(daemon, prompt="and", raw=False, options=options, context=first["context"])
    assert second["prompt_eval_count"] > first["prompt_eval_count"] + first["eval_count"] - 2
    assert second["context"][: len(first["context"]) - 1] == first["context"][:-1]  # the border may be encoded anew


def test_raw_answers_have_no_context_and_take_none(daemon: Daemon) -> None:
    assert "context" not in generate(daemon, prompt="x", options={"num_predict": 1})
    response = daemon.post("/api/generate", model="tiny", prompt="x", raw=True, context=[5])
    assert (response.status_code, response.json()["error"]) == (
        400,
        "raw mode does not support template, system, or context",
    )


@pytest.mark.parametrize("num_predict", [0, -1, -2])
def test_no_bound_on_the_answer_is_ten_windows(daemon: Daemon, num_predict: int) -> None:
    options = {"num_ctx": 8, "num_predict": num_predict, "seed": 11, **VARIED}
    assert 1 < generate(daemon, prompt="a", options=options)["eval_count"] <= 80
