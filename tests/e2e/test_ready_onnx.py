"""Repositories that hold ONNX graphs, created from their directory and asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.daemon import Daemon, running
from tests.hearth_export.ready_graphs import CONFIG, decoder, encoder, expected_logits, write_repository
from tests.tiny import tokens

NUM_TOKENS = 12
PROMPTS = ["the", "an", "in the end", "here"]


@pytest.fixture(scope="module", params=["concatenated", "grouped"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp(request.param)
    graph = decoder(grouped=request.param == "grouped")
    source = write_repository(root / "repo", {"onnx/model.onnx": graph})
    with running(root, HEARTH_NUM_PARALLEL="4") as daemon:
        lines = daemon.lines("/api/create", model="ready", modelfile=f"FROM {source}")
        assert lines[-1] == {"status": "success"}, lines[-1]
        yield daemon


def answer(daemon: Daemon, prompt: str, **options: Any) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": NUM_TOKENS} | options
    response = daemon.post("/api/generate", model="ready", prompt=prompt, raw=True, stream=False, options=options)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def expected(prompt: str) -> str:
    """What greedy decoding writes, by NumPy."""
    vocabulary = tokens()
    ids = encoded(prompt)
    written: list[int] = []
    for _ in range(NUM_TOKENS):
        written.append(int(expected_logits(ids + written)[-1].argmax()))
    return "".join(vocabulary[index] for index in written)


def encoded(prompt: str) -> list[int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from tests.tiny import MERGES

    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens())}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return list(tokenizer.encode(prompt).ids)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_what_the_weights_say(served: Daemon, prompt: str) -> None:
    assert answer(served, prompt)["response"] == expected(prompt)


def test_texts_written_at_the_same_time_are_those_written_alone(served: Daemon) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: answer(served, prompt)["response"], PROMPTS * 2))
    assert found == [expected(prompt) for prompt in PROMPTS * 2]


def test_full_window_ends_the_text(served: Daemon) -> None:
    found = answer(served, "the", num_predict=200)
    assert found["done_reason"] == "length"
    assert found["prompt_eval_count"] + found["eval_count"] <= 65


def test_constrained_answer_is_json(served: Daemon) -> None:
    body = {"model": "ready", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    options = {"temperature": 0, "num_predict": 60}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    response = served.post("/api/chat", **body, options=options, format=schema)
    assert isinstance(json.loads(response.json()["message"]["content"])["a"], bool)


def test_model_without_states_makes_no_embeddings_and_says_so(served: Daemon) -> None:
    response = served.post("/api/embed", model="ready", input="text")
    assert response.status_code == 400
    assert "no states" in response.json()["error"]


def test_show_tells_the_format(served: Daemon) -> None:
    details = served.post("/api/show", model="ready").json()["details"]
    assert (details["format"], details["family"], details["quantization_level"]) == ("onnx", "tiny", "F32")


def test_ready_encoder_makes_embeddings(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"model.onnx": encoder()}, CONFIG | {"architectures": ["TinyModel"]})
    with running(tmp_path) as daemon:
        assert daemon.lines("/api/create", model="ready", modelfile=f"FROM {source}")[-1] == {"status": "success"}
        vectors = np.array(daemon.post("/api/embed", model="ready", input=["the", "an", "the"]).json()["embeddings"])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
        assert "embedding" in daemon.post("/api/show", model="ready").json()["capabilities"]


def test_graph_that_cannot_be_served_fails_create_with_the_reason(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"model.onnx": encoder("scores")})
    with running(tmp_path) as daemon:
        last = daemon.lines("/api/create", model="bad", modelfile=f"FROM {source}")[-1]
        assert "none of them is known to be embeddings" in last["error"]
        assert daemon.http.get("/api/tags").json()["models"] == []
