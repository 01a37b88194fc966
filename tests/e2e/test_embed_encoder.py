"""Vectors over HTTP, from an encoder that a GGUF file holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.daemon import Daemon, eventually, running
from tests.e2e.hearth import hearth
from tests.tiny_bert import CONTEXT, HIDDEN, WORDS, random_encoder, reference, write_tiny_bert

TEXTS = ["the cat sat", "w7", "", "a cat w1 w2 w3 the mat " * 4, "w50 w51 w52"]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the encoder `tiny`, and settings that only decoders can follow."""
    root = tmp_path_factory.mktemp("encoder")
    settings = {"HEARTH_NUM_PARALLEL": "4", "HEARTH_KV_CACHE_TYPE": "q8_0", "HEARTH_PREFIX_CACHE": "1GiB"}
    with running(root, **settings, HEARTH_PACKED_WEIGHTS="1") as daemon:
        daemon.create("tiny", write_tiny_bert(root / "bert.gguf"))
        yield daemon


def vectors(daemon: Daemon, texts: str | list[str], **fields: Any) -> NDArray[np.float64]:
    response = daemon.post("/api/embed", model="tiny", input=texts, **fields)
    assert response.status_code == 200, response.text
    return np.array(response.json()["embeddings"])


def test_texts_get_the_same_vectors_in_company_and_alone(serving: Daemon) -> None:
    together = vectors(serving, TEXTS)
    assert together.shape == (len(TEXTS), HIDDEN)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), np.ones(len(TEXTS)), rtol=1e-6)
    alone = np.concatenate([vectors(serving, [text]) for text in TEXTS])
    assert (together * alone).sum(axis=1).min() > 0.9999
    assert (together[0] * together[1]).sum() < 0.9999


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert", "modern-bert"])
def test_vectors_are_those_of_plain_arithmetic(serving: Daemon, architecture: str, tmp_path: Path) -> None:
    tensors = random_encoder(architecture)
    serving.create("other", write_tiny_bert(tmp_path / "other.gguf", architecture, tensors))
    texts = [["the", "cat", "sat"], ["w7"], [f"w{n}" for n in range(40)]]
    ids = [[WORDS.index(f"\u2581{word}") for word in text] for text in texts]
    expected = reference(architecture, tensors, "mean", [[2, *each, 3] for each in ids])
    response = serving.post("/api/embed", model="other", input=[" ".join(text) for text in texts])
    found = np.array(response.json()["embeddings"])
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    serving.delete("other")
    assert cosines.min() > 0.999, cosines
    assert response.json()["prompt_eval_count"] == sum(len(each) + 2 for each in ids)


def test_clients_at_once_are_all_answered(serving: Daemon) -> None:
    expected = vectors(serving, TEXTS)
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda place: vectors(serving, TEXTS[place % 5])[0:1], [0, 1, 3, 4] * 8))
    for vector, place in zip(found, [0, 1, 3, 4] * 8, strict=True):
        assert (vector[0] * expected[place]).sum() > 0.9999


def test_a_long_text_is_cut_to_what_the_model_can_read(serving: Daemon) -> None:
    response = serving.post("/api/embed", model="tiny", input="cat " * 1000, options={"num_ctx": 8192})
    assert response.json()["prompt_eval_count"] == CONTEXT
    refused = serving.post("/api/embed", model="tiny", input="cat " * 1000, truncate=False)
    assert (refused.status_code, refused.json()["error"]) == (400, "the input length exceeds the context length")


def test_text_is_refused_in_the_words_of_the_api(serving: Daemon) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("generate", {"prompt": "a"}),
        ("chat", {"messages": [{"role": "user", "content": "a"}]}),
    ]
    for verb, fields in asked:
        response = serving.post(f"/api/{verb}", model="tiny", **fields)
        assert (response.status_code, response.json()["error"]) == (400, f'"tiny" does not support {verb}')


def test_it_is_listed_loaded_and_unloaded_like_any_model(serving: Daemon) -> None:
    assert serving.post("/api/show", model="tiny").json()["capabilities"] == ["embedding"]
    vectors(serving, "mat", keep_alive="1h")
    (loaded,) = [model for model in serving.loaded() if model["name"] == "tiny:latest"]
    assert (loaded["size_vram"], loaded["details"]["family"]) == (0, "bert")
    assert loaded["size"] > 20 << 20
    vectors(serving, "mat", keep_alive=0)
    eventually(lambda: "tiny:latest" not in [model["name"] for model in serving.loaded()], "it is unloaded")


def test_the_command_line_prints_a_vector(serving: Daemon, tmp_path: Path) -> None:
    done = hearth(serving, tmp_path, "run", "tiny", "the cat", "--dimensions=4")
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(
        np.array(json.loads(done.stdout)), vectors(serving, "the cat", dimensions=4)[0], rtol=1e-6
    )
    assert "makes embeddings" in hearth(serving, tmp_path, "run", "tiny").stderr
