"""The official npm client against a real daemon and a real registry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import PATIENCE_S, Daemon, running
from tests.registries.docker import DockerRegistry, docker_registry

SCRIPT = Path(__file__).with_name("official_client.mjs")
PACKAGES = Path(sys.prefix) / "npm"  # where setup.sh puts them
SHORT = {"num_predict": 12, "temperature": 0}


class Node:
    """Calls of the npm package `ollama`."""

    def __init__(self, host: str) -> None:
        self._node = shutil.which("node", path=f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}")
        self._host = host
        if self._node is None or not (PACKAGES / "node_modules" / "ollama").is_dir():
            pytest.skip("node or the npm package ollama is not here (setup.sh dev fetches them where it can)")

    def do(self, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """What came of each call: {"answer"}, {"parts"} of a stream, or {"error", "status"}."""
        assert self._node is not None
        orders = json.dumps([{"call": call, "request": request} for call, request in calls])
        command = [self._node, str(SCRIPT), str(PACKAGES), self._host]
        done = subprocess.run(
            command, input=orders, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results

    def answer(self, call: str, **request: Any) -> Any:
        """The answer to one call, which must succeed."""
        (result,) = self.do((call, request))
        assert "answer" in result, result
        return result["answer"]

    def parts(self, call: str, **request: Any) -> list[dict[str, Any]]:
        """The parts of one streamed call, which must succeed."""
        (result,) = self.do((call, request | {"stream": True}))
        assert "parts" in result, result
        parts: list[dict[str, Any]] = result["parts"]
        return parts

    def error(self, call: str, **request: Any) -> dict[str, Any]:
        """How one call failed."""
        (result,) = self.do((call, request))
        assert "error" in result, result
        return result


@pytest.fixture(scope="module")
def server(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("server")) as daemon:
        daemon.create("tiny", tiny_gguf)
        yield daemon


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running_registry:
        yield running_registry


@pytest.fixture(scope="module")
def client(server: Daemon) -> Node:
    return Node(server.url)


def models(client: Node) -> dict[str, str]:
    """Digest by name."""
    return {model["name"]: model["digest"] for model in client.answer("list")["models"]}


def test_a_pushed_model_is_pulled_back_the_same(client: Node, registry: DockerRegistry) -> None:
    name = f"{registry.host}/library/node:latest"
    assert client.answer("copy", source="tiny", destination=name) == {"status": "success"}
    digest = models(client)[name]
    pushed = client.parts("push", model=name, insecure=True)
    assert (pushed[0]["status"], pushed[-1]["status"]) == ("retrieving manifest", "success")
    client.answer("delete", model=name)
    assert name not in models(client)
    pulled = client.parts("pull", model=name, insecure=True)
    assert (pulled[0]["status"], pulled[-1]["status"]) == ("pulling manifest", "success")
    assert models(client)[name] == digest
    told = client.answer("generate", model=name, prompt="the", options=SHORT)
    assert told["response"] == client.answer("generate", model="tiny", prompt="the", options=SHORT)["response"]
    client.answer("delete", model=name)


def test_push_and_pull_answer_in_one_piece_too(client: Node, registry: DockerRegistry) -> None:
    name = f"{registry.host}/library/piece:latest"
    client.answer("copy", source="tiny", destination=name)
    assert client.answer("push", model=name, insecure=True)["status"] == "success"
    assert client.answer("pull", model=name, insecure=True)["status"] == "success"
    client.answer("delete", model=name)


def test_progress_has_the_fields_that_bars_are_drawn_from(client: Node, registry: DockerRegistry) -> None:
    name = f"{registry.host}/library/bars:latest"
    client.answer("copy", source="tiny", destination=name)
    for call in ("push", "pull"):
        layers = [part for part in client.parts(call, model=name, insecure=True) if "digest" in part]
        assert layers
        for part in layers:
            assert part["status"].endswith(part["digest"].removeprefix("sha256:")[:12])
            assert part["total"] > 0
        last = {part["digest"]: part for part in layers}
        assert all(part["completed"] == part["total"] for part in last.values())
    client.answer("delete", model=name)


def test_an_uploaded_file_becomes_a_model(client: Node, tiny_gguf: Path) -> None:
    data = tiny_gguf.read_bytes() + b"\0"  # another blob than the one that is there
    grown = tiny_gguf.with_name("grown.gguf")
    grown.write_bytes(data)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert client.answer("upload", path=str(grown), digest=digest) == [404, 201, 200]
    statuses = [part["status"] for part in client.parts("create", model="grown", files={"m.gguf": digest})]
    assert statuses[-1] == "success"
    client.answer("delete", model="grown")


def test_a_model_made_from_another_says_what_it_was_given(client: Node) -> None:
    made = client.answer("create", model="pirate", **{"from": "tiny", "system": "Arr.", "parameters": {"top_k": 7}})
    assert made["status"] == "success"
    client.answer("copy", source="pirate", destination="corsair")
    shown = client.answer("show", model="corsair")
    assert shown["system"] == "Arr."
    assert "top_k" in shown["parameters"]
    for name in ("pirate", "corsair"):
        client.answer("delete", model=name)
    assert not {"pirate:latest", "corsair:latest"} & set(models(client))


def test_failures_carry_the_servers_sentence(client: Node, registry: DockerRegistry) -> None:
    absent = f"{registry.host}/library/absent:latest"
    assert client.error("pull", model=absent, insecure=True, stream=True)["error"] == (
        "pull model manifest: file does not exist"
    )
    assert "not found" in client.error("push", model=absent, insecure=True, stream=True)["error"]
    assert client.error("delete", model="absent") == {"error": "model 'absent' not found", "status": 404}
    assert client.error("copy", source="absent", destination="x")["status"] == 404
    assert client.error("pull", model="../etc/passwd")["status"] == 400


def test_answers_keep_the_form_that_is_asked_for(client: Node) -> None:
    form: dict[str, Any] = {"type": "object", "properties": {"legs": {"enum": [2, 4, 6]}}, "required": ["legs"]}
    form["additionalProperties"] = False
    messages = [{"role": "user", "content": "How many legs has a cat?"}]
    whole = client.answer("chat", model="tiny", messages=messages, format=form)
    parts = client.parts("chat", model="tiny", messages=messages, format=form)
    for text in (whole["message"]["content"], "".join(part["message"]["content"] for part in parts)):
        assert json.loads(text)["legs"] in (2, 4, 6)
    refused = client.error("chat", model="tiny", messages=messages, format={"type": "thing"})
    assert refused["status"] == 400
    assert "thing" in refused["error"]


def test_calls_of_tools_are_objects(client: Node) -> None:
    client.answer(
        "create", model="caller", **{"from": "tiny", "template": "{{ .Tools }}{{ range .Messages }}{{ end }}"}
    )
    arguments: dict[str, Any] = {"type": "object", "properties": {"city": {"const": "Oslo"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": arguments}}]
    form: dict[str, Any] = {"type": "object", "properties": {"name": {"const": "weather"}, "arguments": arguments}}
    form |= {"required": ["name", "arguments"], "additionalProperties": False}
    arguments["additionalProperties"] = False
    messages = [{"role": "user", "content": "Weather?"}]
    *_, call, last = client.parts("chat", model="caller", messages=messages, tools=tools, format=form)
    assert call["message"]["tool_calls"][0]["function"] == {
        "index": 0,
        "name": "weather",
        "arguments": {"city": "Oslo"},
    }
    assert (last["done"], last["message"]["content"]) == (True, "")
    client.answer("delete", model="caller")


def test_texts_are_embedded(client: Node) -> None:
    answer = client.answer("embed", model="tiny", input=["the ferry", "pumps"], dimensions=8)
    assert [len(vector) for vector in answer["embeddings"]] == [8, 8]
    assert answer["prompt_eval_count"] > 2
    assert len(client.answer("embeddings", model="tiny", prompt="the ferry")["embedding"]) == 64
    error = client.error("embed", model="nope", input="a")
    assert (error["error"], error["status"]) == ('model "nope" not found, try pulling it first', 404)
