"""What requests and settings ask for works in the sandbox too: other programs, other files, the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.appliance.machine import SERVICE, Container
from tests.e2e.daemon import eventually
from tests.tiny_bert import HIDDEN, write_tiny_bert

pytestmark = pytest.mark.systemd

SETTINGS, POLICY = "/etc/hearth/hearth.env", "/etc/hearth/hearth.toml"
STORE = "/var/lib/hearth/models"
NEIGHBOUR = "127.0.0.1:11500"
GREEDY = {"temperature": 0, "num_predict": 8}


@pytest.fixture
def neighbour(service: Container) -> Iterator[str]:
    """Another daemon on the machine, no service of ours, that has our models and shares them; its address."""
    service.run("cp", "-a", STORE, "/srv/models")
    settings = {"HOST": NEIGHBOUR, "MODELS": "/srv/models", "SHARE": "1", "KEY": "/srv/key"}
    words = [f"--setenv=HEARTH_{name}={value}" for name, value in settings.items()]
    service.run("systemd-run", "--unit=neighbour", "--quiet", *words, "/usr/local/bin/hearth", "serve")
    reach = ("curl", "--silent", "--fail", f"http://{NEIGHBOUR}/v2/")
    eventually(lambda: service.try_run(*reach).returncode == 0, "the neighbour answers")
    yield NEIGHBOUR
    service.run("systemctl", "stop", "neighbour")
    service.run("rm", "-r", "/srv/models")


def set_up(service: Container, **settings: str) -> None:
    """Start the service with these settings."""
    service.write(SETTINGS, "".join(f"HEARTH_{name}={value}\n" for name, value in settings.items()))
    service.run("systemctl", "restart", SERVICE)


def generated(service: Container, model: str, **fields: Any) -> dict[str, Any]:
    """What is generated after a load, without randomness."""
    service.post("/api/generate", model=model, keep_alive=0)
    answer = service.post("/api/generate", **({"model": model, "prompt": "hello", "options": GREEDY} | fields))
    assert "response" in answer, answer
    return answer


def test_a_model_is_pulled_from_a_neighbour(service: Container, neighbour: str) -> None:
    name = f"http://{neighbour}/library/tiny"
    *_, last = service.lines("/api/pull", model=name, insecure=True)
    assert last == {"status": "success"}
    assert generated(service, name)["response"] == generated(service, "tiny")["response"]
    with service.asked("DELETE", "/api/delete", model=name) as deleted:
        assert deleted.status == 200


def test_the_policy_has_a_model_pulled_and_loaded_before_the_service_counts_as_started(
    service: Container, neighbour: str
) -> None:
    name = f"http://{neighbour}/library/tiny"
    service.write(POLICY, f'[boot]\nwait = true\n[[models]]\nname = "{name}"\nkeep_alive = "-1"\n')
    try:
        service.run("systemctl", "restart", SERVICE)  # returns when it has started
        (model,) = service.get("/api/ps")["models"]
        assert model["name"] == f"{neighbour}/library/tiny:latest"
        assert model["expires_at"] > "2100"
        assert f"{neighbour}/library/tiny:latest loaded" in service.show("StatusText")
    finally:
        service.write(POLICY, "")


def test_a_policy_whose_registry_is_not_there_holds_up_nothing(service: Container) -> None:
    service.write(POLICY, f'[boot]\nwait = true\n[[models]]\nname = "http://{NEIGHBOUR}/library/absent"\n')
    try:
        service.run("systemctl", "restart", SERVICE)
        assert service.version()
        assert "trying again" in service.show("StatusText")
    finally:
        service.write(POLICY, "")


def test_texts_become_vectors(service: Container, tmp_path: Path) -> None:
    service.create("encoder", write_tiny_bert(tmp_path / "encoder.gguf"))
    answer = service.post("/api/embed", model="encoder", input=["the cat", "a mat"])
    assert [len(vector) for vector in answer["embeddings"]] == [HIDDEN, HIDDEN]


def test_weights_are_packed_and_give_the_same_answer(service: Container) -> None:
    plain = generated(service, "smollm2")
    set_up(service, PACKED_WEIGHTS="1")
    assert generated(service, "smollm2")["response"] == plain["response"]
    assert "packed.json" in service.run("find", f"{STORE}/variants", "-name", "packed.json")
    assert "not packed" not in service.told()


def test_a_prompt_is_saved_and_read_after_an_unload(service: Container) -> None:
    set_up(service, PREFIX_CACHE="64MiB")
    prompt = "You keep a lighthouse by the sea, and you are brief. " * 40
    options = GREEDY | {"num_ctx": 4096}
    first = generated(service, "tiny", prompt=prompt, options=options)
    again = generated(service, "tiny", prompt=prompt, options=options)
    assert ".kv" in service.run("find", f"{STORE}/prefixes", "-name", "*.kv")
    assert again["response"] == first["response"]


def test_a_costly_schema_is_tried_out_before_it_is_used(service: Container) -> None:
    any_of = {"type": "string", "allOf": [{"pattern": "^[a-z]{1,4}$"}, {"pattern": "^.{2,3}$"}]}
    schema = {"type": "object", "properties": {"word": any_of}, "required": ["word"], "additionalProperties": False}
    options = {"temperature": 0, "num_predict": 40}
    answer = generated(service, "smollm2", prompt="A short word as JSON.", format=schema, options=options)
    assert re.fullmatch("[a-z]{2,3}", json.loads(answer["response"])["word"])


def test_several_requests_share_a_model_and_keys_and_values_of_a_byte(service: Container) -> None:
    set_up(service, NUM_PARALLEL="4", KV_CACHE_TYPE="q8_0")
    assert generated(service, "smollm2")["eval_count"] == GREEDY["num_predict"]


def test_the_device_has_a_key_of_its_own_that_others_cannot_read(service: Container) -> None:
    key = "/var/lib/hearth/id_ed25519"
    eventually(lambda: service.try_run("test", "-s", key).returncode == 0, "the key is made")
    assert service.run("stat", "--format=%U %a", key).split() == ["hearth", "600"]
