"""Vectors over HTTP, from a decoder."""

from __future__ import annotations

import asyncio
import base64
import math
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import pytest
from numpy.typing import NDArray

from tests.e2e.daemon import PATIENCE_S, Daemon, eventually

HIDDEN_SIZE = 64
TEXTS = ["the ferry left at six", "pumps", "", "a longer text about harbours, gulls and old men in green coats"]


def vectors(response: httpx.Response) -> NDArray[np.float32]:
    assert response.status_code == 200, response.text
    return np.array(response.json()["embeddings"], np.float32)


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


# /api/embed


def test_each_text_gets_a_vector_of_length_one_in_order(daemon: Daemon) -> None:
    response = daemon.post("/api/embed", model="tiny", input=TEXTS)
    together = vectors(response)
    assert together.shape == (len(TEXTS), HIDDEN_SIZE)
    lengths = np.linalg.norm(together, axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1], rtol=1e-5)  # the tiny model's token for "no text" is all zeros
    alone = [vectors(daemon.post("/api/embed", model="tiny", input=text))[0] for text in TEXTS if text]
    np.testing.assert_array_equal(together[[0, 1, 3]], alone)
    body = response.json()
    assert body["model"] == "tiny"
    assert body["total_duration"] > 0
    assert body["load_duration"] > 0
    counts = [daemon.post("/api/embed", model="tiny", input=[text]).json()["prompt_eval_count"] for text in TEXTS]
    assert body["prompt_eval_count"] == sum(counts)
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("fields", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_without_input_the_model_is_loaded(daemon: Daemon, fields: dict[str, Any]) -> None:
    daemon.post("/api/generate", model="tiny", keep_alive=0)
    eventually(lambda: not daemon.loaded(), "the model is gone")
    response = daemon.post("/api/embed", model="tiny", **fields)
    assert (response.status_code, response.json()) == (200, {"model": "tiny", "embeddings": []})
    assert [model["name"] for model in daemon.loaded()] == ["tiny:latest"]


@pytest.mark.parametrize("dimensions", [-1, 0, HIDDEN_SIZE, 10**9])
def test_dimensions_that_cut_nothing_are_ignored(daemon: Daemon, dimensions: int) -> None:
    whole = vectors(daemon.post("/api/embed", model="tiny", input="pumps"))
    np.testing.assert_array_equal(
        vectors(daemon.post("/api/embed", model="tiny", input="pumps", dimensions=dimensions)), whole
    )


def test_dimensions_cut_and_normalise_again(daemon: Daemon) -> None:
    whole = vectors(daemon.post("/api/embed", model="tiny", input="pumps"))[0]
    cut = vectors(daemon.post("/api/embed", model="tiny", input="pumps", dimensions=10))[0]
    np.testing.assert_allclose(cut, whole[:10] / np.linalg.norm(whole[:10]), rtol=1e-5)


def test_a_text_beyond_the_window_is_cut_or_refused(daemon: Daemon) -> None:
    options = {"num_ctx": 16}
    fields = {"model": "tiny", "input": ["short", "xyz" * 100], "options": options}
    assert daemon.post("/api/embed", **fields).json()["prompt_eval_count"] == 16 + len("short")
    head = vectors(daemon.post("/api/embed", model="tiny", input="xyz" * 5 + "x", options=options))[0]
    np.testing.assert_array_equal(vectors(daemon.post("/api/embed", **fields))[1], head)
    assert refusal(daemon.post("/api/embed", **fields, truncate=False)) == (
        400,
        "the input length exceeds the context length",
    )


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"input": "a"}, 404, "model '' not found"),
        ({"model": "nope", "input": "a"}, 404, 'model "nope" not found, try pulling it first'),
        ({"model": "tiny", "input": 3}, 400, "invalid input type"),
        ({"model": "tiny", "input": {"text": "a"}}, 400, "invalid input type"),
        ({"model": "tiny", "input": ["a", 3]}, 400, "invalid input type"),
        ({"model": "tiny", "input": [[1, 2]]}, 400, "invalid input type"),
        ({"model": "tiny", "input": "a", "dimensions": "two"}, 400, "field 'dimensions': expected integer, got string"),
        ({"model": "tiny", "input": "a", "options": {"num_ctx": "x"}}, 500, 'option "num_ctx" must be of type integer'),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    daemon: Daemon, fields: dict[str, Any], status: int, sentence: str
) -> None:
    told = refusal(daemon.post("/api/embed", **fields))
    assert (told[0], told[1][: len(sentence)]) == (status, sentence)


def test_options_that_clients_send_as_nulls_are_no_options(daemon: Daemon) -> None:
    options = {"tfs_z": None, "num_ctx": None, "temperature": None}
    assert vectors(daemon.post("/api/embed", model="tiny", input="a", options=options, truncate=None)).shape == (1, 64)


def test_many_texts_come_back_whole_and_in_order(daemon: Daemon) -> None:
    texts = [f"text {number} " + "x" * (number % 7) for number in range(600)]
    response = daemon.post("/api/embed", model="tiny", input=texts)
    assert response.headers.get("transfer-encoding") == "chunked"
    every = vectors(response)
    some = vectors(daemon.post("/api/embed", model="tiny", input=texts[::150]))
    np.testing.assert_array_equal(every[::150], some)
    assert len(every) == 600


# /api/embeddings


def test_the_older_form_gives_the_vector_as_the_model_makes_it(daemon: Daemon) -> None:
    (vector,) = vectors(daemon.post("/api/embed", model="tiny", input="pumps"))
    response = daemon.post("/api/embeddings", model="tiny", prompt="pumps")
    assert list(response.json()) == ["embedding"]
    raw = np.array(response.json()["embedding"])
    assert abs(np.linalg.norm(raw) - 1) > 0.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw), vector, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"prompt": ""}, {"prompt": None}])
def test_the_older_form_without_a_prompt_loads_the_model(daemon: Daemon, fields: dict[str, Any]) -> None:
    response = daemon.post("/api/embeddings", model="tiny", **fields)
    assert (response.status_code, response.json()) == (200, {"embedding": []})


def test_the_older_form_needs_a_model_that_is_here(daemon: Daemon) -> None:
    assert refusal(daemon.post("/api/embeddings", prompt="a")) == (400, "model is required")
    nope = daemon.post("/api/embeddings", model="nope", prompt="a")
    assert refusal(nope) == (404, 'model "nope" not found, try pulling it first')


# /v1/embeddings


def openai(daemon: Daemon, **fields: Any) -> dict[str, Any]:
    response = daemon.post("/v1/embeddings", model="tiny", **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_numbers_and_base64_are_the_same_vectors(daemon: Daemon) -> None:
    expected = vectors(daemon.post("/api/embed", model="tiny", input=TEXTS))
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = openai(daemon, input=TEXTS, **encoding)
        assert (answer["object"], answer["model"]) == ("list", "tiny")
        assert [(each["object"], each["index"]) for each in answer["data"]] == [("embedding", n) for n in range(4)]
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 4
        found = [each["embedding"] for each in answer["data"]]
        if "base64" in encoding.values():
            found = [np.frombuffer(base64.b64decode(text), "<f4") for text in found]
        np.testing.assert_array_equal(np.array(found, np.float32), expected)


def test_an_empty_text_is_embedded_and_dimensions_cut(daemon: Daemon) -> None:
    answer = openai(daemon, input="", dimensions=5)
    assert [len(each["embedding"]) for each in answer["data"]] == [5]


def test_token_ids_are_read_as_they_are(daemon: Daemon) -> None:
    one, two = (openai(daemon, input=ids)["data"] for ids in ([70, 71], [[70, 71], [72]]))
    assert (len(one), len(two)) == (1, 2)
    assert one[0]["embedding"] == two[0]["embedding"]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "message"),
    [
        ({}, 400, "invalid_request_error", "invalid input"),
        ({"input": []}, 400, "invalid_request_error", "invalid input"),
        ({"input": {}}, 400, "invalid_request_error", "invalid input type"),
        ({"input": "a", "model": "x"}, 404, "not_found_error", 'model "x" not found, try pulling it first'),
        (
            {"input": "a", "encoding_format": "hex"},
            400,
            "invalid_request_error",
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
        ({"input": [1 << 20]}, 400, "invalid_request_error", "input: token id 1048576 is not below the vocabulary"),
    ],
)
def test_failures_wear_the_envelope_of_this_api(
    daemon: Daemon, fields: dict[str, Any], status: int, kind: str, message: str
) -> None:
    response = daemon.post("/v1/embeddings", **{"model": "tiny"} | fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"], error["code"]) == (status, kind, None, None)
    assert error["message"].startswith(message)


def test_a_path_under_v1_that_is_none_is_plainly_not_found(daemon: Daemon) -> None:
    response = daemon.post("/v1/nothing")
    assert (response.status_code, response.text) == (404, "404 page not found")


# others, and clients


def rests(pid: int) -> bool:
    """Whether the process takes no processor time."""

    def ticks() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    before = ticks()
    time.sleep(0.5)
    return ticks() == before


def test_a_client_that_leaves_stops_its_batch(daemon: Daemon) -> None:
    texts = [f"{number}" + "x" * 3000 for number in range(1000)]  # a minute and more

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=daemon.url, trust_env=False) as client:
            request = asyncio.create_task(client.post("/api/embed", json={"model": "tiny", "input": texts}))
            await asyncio.sleep(1)
            request.cancel()
            await asyncio.wait([request])

    vectors(daemon.post("/api/embed", model="tiny", input="a"))
    asyncio.run(leave())
    (pid,) = daemon.runner_pids()
    eventually(lambda: rests(pid), "the runner has nothing to do")


def test_a_question_does_not_wait_for_the_end_of_a_batch(daemon: Daemon) -> None:
    vectors(daemon.post("/api/embed", model="tiny", input="a"))
    order: list[str] = []

    def embed() -> None:
        with httpx.Client(base_url=daemon.url, timeout=PATIENCE_S, trust_env=False) as client:
            vectors(
                client.post("/api/embed", json={"model": "tiny", "input": [f"{n}" + "x" * 1000 for n in range(150)]})
            )
            order.append("batch")

    batch = threading.Thread(target=embed)
    batch.start()
    eventually(lambda: daemon.loaded(), "it is loaded")
    daemon.post("/api/generate", model="tiny", prompt="hello", stream=False, options={"num_predict": 4})
    order.append("question")
    batch.join()
    assert order == ["question", "batch"]


def test_the_official_client_embeds(daemon: Daemon) -> None:
    client = ollama.Client(host=daemon.url, trust_env=False)
    try:
        many = client.embed("tiny", TEXTS, dimensions=16)
        assert [len(vector) for vector in many.embeddings] == [16] * len(TEXTS)
        assert math.isclose(math.hypot(*many.embeddings[0]), 1, rel_tol=1e-5)
        assert many.prompt_eval_count
        assert len(client.embeddings("tiny", "pumps").embedding) == HIDDEN_SIZE
        with pytest.raises(ollama.ResponseError, match="try pulling it first"):
            client.embed("nope", "a")
    finally:
        client._client.close()
