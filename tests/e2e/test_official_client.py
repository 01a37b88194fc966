"""The official Python client with a real model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.e2e.daemon import Daemon, eventually, running

MODEL = "smollm2:135m"
SHORT = {"num_predict": 24, "temperature": 0}
QUESTION = "What is the capital of France? Answer in one word."


@pytest.fixture(scope="module")
def real(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("real")) as daemon:
        daemon.create(MODEL, smollm2_gguf)
        yield daemon


@pytest.fixture(scope="module")
def client(real: Daemon) -> Iterator[ollama.Client]:
    client = ollama.Client(host=real.url, trust_env=False)
    yield client
    client._client.close()  # older releases have no close of their own


def test_list_names_the_model(client: ollama.Client) -> None:
    (model,) = client.list().models
    assert (model.model, model.details and model.details.quantization_level) == (MODEL, "Q4_1")
    assert model.modified_at is not None
    assert model.modified_at.tzinfo is not None


def test_show_describes_the_checkpoint(client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.details is not None
    assert shown.details.parameter_size == "134.52M"
    assert shown.capabilities == ["completion"]
    assert "<|im_start|>" in (shown.template or "")


def test_chat_answers_in_one_piece_and_in_a_stream(client: ollama.Client) -> None:
    messages = [ollama.Message(role="user", content=QUESTION)]
    whole = client.chat(MODEL, messages, options=SHORT)
    assert "Paris" in (whole.message.content or "")
    parts = list(client.chat(MODEL, messages, options=SHORT, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (parts[-1].done, parts[-1].done_reason) == (True, whole.done_reason)
    assert len(parts) > 1


def test_a_conversation_goes_on(client: ollama.Client) -> None:
    first = client.chat(MODEL, [ollama.Message(role="user", content=QUESTION)], options=SHORT)
    messages = [
        ollama.Message(role="user", content=QUESTION),
        first.message,
        ollama.Message(role="user", content="And of Italy?"),
    ]
    answer = client.chat(MODEL, messages, options=SHORT)
    assert answer.prompt_eval_count is not None
    assert first.prompt_eval_count is not None
    assert answer.prompt_eval_count > first.prompt_eval_count
    assert answer.message.content


def test_generate_answers_in_one_piece_and_in_a_stream(client: ollama.Client) -> None:
    whole = client.generate(MODEL, QUESTION, options=SHORT)
    assert "Paris" in (whole.response or "")
    parts = list(client.generate(MODEL, QUESTION, options=SHORT, stream=True))
    assert "".join(part.response or "" for part in parts) == whole.response
    assert whole.context == parts[-1].context != []


def test_a_context_carries_the_conversation(client: ollama.Client) -> None:
    first = client.generate(MODEL, QUESTION, options=SHORT)
    assert first.context is not None
    second = client.generate(MODEL, "Repeat that.", context=first.context, options=SHORT)
    assert second.context is not None
    assert list(second.context)[: len(first.context)] == list(first.context)


def test_ps_lists_the_loaded_model_until_it_is_unloaded(client: ollama.Client, real: Daemon) -> None:
    client.generate(MODEL, keep_alive="10m")
    (model,) = client.ps().models
    assert (model.model, model.size_vram) == (MODEL, 0)
    client.generate(MODEL, keep_alive=0)
    eventually(lambda: not client.ps().models, "the model is unloaded")


def test_create_from_a_model_copy_and_delete(client: ollama.Client) -> None:
    created = client.create("pirate", from_=MODEL, system="You are a pirate.", parameters={"temperature": 0})
    assert created.status == "success"
    assert client.copy("pirate", "corsair").status == "success"
    assert "SYSTEM You are a pirate." in (client.show("corsair").modelfile or "")
    assert client.chat("corsair", [ollama.Message(role="user", content="Hi")], options=SHORT).message.content
    for name in ("pirate", "corsair"):
        assert client.delete(name).status == "success"
    assert [model.model for model in client.list().models] == [MODEL]


def test_create_from_an_uploaded_file(client: ollama.Client, smollm2_gguf: Path) -> None:
    digest = client.create_blob(smollm2_gguf)
    assert digest == "sha256:" + hashlib.sha256(smollm2_gguf.read_bytes()).hexdigest()
    statuses = [step.status for step in client.create("uploaded", files={"m.gguf": digest}, stream=True)]
    assert statuses[-1] == "success"
    client.delete("uploaded")


def test_failures_carry_the_servers_sentence(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as failure:
        client.chat("nope", [ollama.Message(role="user", content="x")])
    assert failure.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length"):
        client.embed(MODEL, "word " * 3000, truncate=False, options={"num_ctx": 2048})
