"""Models between two daemons and a real registry, by the official Python client and by plain requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.e2e.daemon import Daemon, eventually, free_port, running
from tests.registries.docker import DockerRegistry, docker_registry

SHORT = {"num_predict": 12, "temperature": 0}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running_registry:
        yield running_registry


@pytest.fixture(scope="module")
def workstation(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Has the model `tiny`."""
    with running(tmp_path_factory.mktemp("workstation")) as daemon:
        daemon.create("tiny", tiny_gguf)
        yield daemon


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Has no model."""
    with running(tmp_path_factory.mktemp("device")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def maker(workstation: Daemon) -> Iterator[ollama.Client]:
    yield from client_of(workstation)


@pytest.fixture(scope="module")
def user(device: Daemon) -> Iterator[ollama.Client]:
    yield from client_of(device)


def client_of(daemon: Daemon) -> Iterator[ollama.Client]:
    client = ollama.Client(host=daemon.url, trust_env=False)
    yield client
    client._client.close()  # older releases have no close of their own


def digests(client: ollama.Client) -> dict[str, str | None]:
    return {model.model: model.digest for model in client.list().models if model.model}


def told(client: ollama.Client, name: str) -> str:
    """What the model says, always the same."""
    return client.generate(name, "the", options=SHORT).response or ""


def statuses(lines: list[dict[str, Any]]) -> list[str]:
    """Each status once, in order."""
    return list(dict.fromkeys(line.get("status", "") for line in lines))


def test_a_model_goes_from_one_daemon_to_the_other(
    registry: DockerRegistry, maker: ollama.Client, user: ollama.Client
) -> None:
    name = f"{registry.host}/library/travels:latest"
    maker.copy("tiny", name)
    pushed = [step.status for step in maker.push(name, insecure=True, stream=True)]
    assert (pushed[0], pushed[-2], pushed[-1]) == ("retrieving manifest", "pushing manifest", "success")
    pulled = [step.status for step in user.pull(name, insecure=True, stream=True)]
    assert (pulled[0], pulled[-1]) == ("pulling manifest", "success")
    assert any("convert" in (status or "") for status in pulled)
    assert digests(user)[name] == digests(maker)[name]
    assert told(user, name) == told(maker, "tiny")
    user.delete(name)
    assert user.pull(name, insecure=True).status == "success"
    user.delete(name)
    maker.delete(name)


def test_what_a_model_was_given_travels_with_it(
    registry: DockerRegistry, maker: ollama.Client, user: ollama.Client
) -> None:
    name = f"{registry.host}/library/dressed:latest"
    maker.create(name, from_="tiny", system="You are tiny.", parameters={"top_k": 7}, license="MIT")
    maker.push(name, insecure=True)
    user.pull(name, insecure=True)
    shown = user.show(name)
    assert "SYSTEM You are tiny." in (shown.modelfile or "")
    assert "top_k" in (shown.parameters or "")
    assert shown.license == "MIT"
    user.delete(name)
    maker.delete(name)


def test_a_device_converts_nothing_where_the_variant_came_along(
    registry: DockerRegistry, workstation: Daemon, device: Daemon, maker: ollama.Client, user: ollama.Client
) -> None:
    name = f"{registry.host}/library/ready:latest"
    maker.copy("tiny", name)
    assert workstation.lines("/api/push", model=name, insecure=True, variants=True, source=False)[-1] == {
        "status": "success"
    }
    lines = device.lines("/api/pull", model=name, insecure=True)
    assert lines[-1] == {"status": "success"}
    assert "using the converted model of the registry" in statuses(lines)
    assert not any("convert" in status for status in statuses(lines) if not status.startswith("using"))
    assert told(user, name) == told(maker, "tiny")
    user.delete(name)
    maker.delete(name)


def test_a_second_push_sends_no_layer(registry: DockerRegistry, maker: ollama.Client) -> None:
    name = f"{registry.host}/library/again:latest"
    maker.copy("tiny", name)
    maker.push(name, insecure=True)
    before = registry.requests("PATCH")
    maker.push(name, insecure=True)
    assert registry.requests("PATCH") == before
    maker.delete(name)


def test_an_uploaded_blob_becomes_a_model_that_can_be_pushed(
    registry: DockerRegistry, maker: ollama.Client, tiny_gguf: Path, tmp_path: Path
) -> None:
    grown = tmp_path / "grown.gguf"
    grown.write_bytes(tiny_gguf.read_bytes() + b"\0\0")
    digest = maker.create_blob(grown)
    assert digest == "sha256:" + hashlib.sha256(grown.read_bytes()).hexdigest()
    name = f"{registry.host}/library/uploaded:latest"
    assert maker.create(name, files={"grown.gguf": digest}).status == "success"
    maker.push(name, insecure=True)
    assert registry.blob("library/uploaded", digest) == grown.read_bytes()
    maker.delete(name)


def test_absent_models_are_told_as_clients_know_it(registry: DockerRegistry, maker: ollama.Client) -> None:
    name = f"{registry.host}/library/absent:latest"
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
        maker.pull(name, insecure=True)
    with pytest.raises(ollama.ResponseError, match="not found"):
        maker.push(name, insecure=True)


def test_a_registry_that_nobody_runs_is_named(maker: ollama.Client) -> None:
    host = f"localhost:{free_port()}"
    with pytest.raises(ollama.ResponseError, match=f"cannot reach {host}"):
        maker.pull(f"{host}/library/x", insecure=True)


def test_names_that_lead_nowhere_are_refused(workstation: Daemon) -> None:
    for name in ("../../etc/passwd", "a/b/c/d/e:f", "host/../x", "x:", "", "x@sha256:00", "http://[::1/x"):
        for path in ("/api/pull", "/api/push"):
            answer = workstation.post(path, model=name, insecure=True)
            assert answer.status_code == 400, (name, path, answer.text)
            assert answer.json()["error"]


def test_plain_http_is_used_only_where_it_is_allowed(workstation: Daemon, registry: DockerRegistry) -> None:
    before = registry.log.count("\n")
    answer = workstation.post("/api/pull", model=f"http://{registry.host}/library/x:latest")
    assert "insecure protocol http" in answer.json()["error"]
    assert registry.log.count("\n") == before


def test_a_daemon_goes_on_serving_while_a_model_is_pushed(
    registry: DockerRegistry, workstation: Daemon, maker: ollama.Client
) -> None:
    name = f"{registry.host}/library/beside:latest"
    maker.copy("tiny", name)
    pushing = maker.push(name, insecure=True, stream=True)
    assert next(iter(pushing)).status == "retrieving manifest"
    assert told(maker, "tiny")
    assert [step.status for step in pushing][-1] == "success"
    maker.delete(name)


def test_the_transfer_process_leaves_when_there_is_nothing_to_move(
    registry: DockerRegistry, workstation: Daemon, maker: ollama.Client
) -> None:
    name = f"{registry.host}/library/leaves:latest"
    maker.copy("tiny", name)
    maker.push(name, insecure=True)
    eventually(lambda: not transfer_pids(workstation), "the transfer process is gone")
    maker.delete(name)


def transfer_pids(daemon: Daemon) -> list[str]:
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    return [pid for pid in children if b"hearthd.transfer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
