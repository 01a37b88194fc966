"""Live answers against the contract, where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.e2e.daemon import Daemon

SHARED = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared/conformance")).parent
CONTRACT = SHARED / "openapi-0.1.44.yaml"
SHORT = {"num_predict": 3}
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    if not CONTRACT.is_file():
        pytest.skip(f"the contract is not at {CONTRACT}; HEARTH_CONFORMANCE names the folder beside it")
    loaded: dict[str, Any] = yaml.safe_load(CONTRACT.read_text())
    return loaded


def check(contract: dict[str, Any], schema: str, answer: Any) -> None:
    """`answer` is valid and has every field of the contract's schema, unless that may be left out."""
    referring = {"$ref": f"#/components/schemas/{schema}", "components": contract["components"]}
    jsonschema.Draft202012Validator(referring, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(
        answer
    )


def missing(contract: dict[str, Any], schema: str, answer: dict[str, Any]) -> set[str]:
    return set(contract["components"]["schemas"][schema]["properties"]) - set(answer)


def test_generate(contract: dict[str, Any], daemon: Daemon) -> None:
    lines = daemon.lines("/api/generate", model="tiny", prompt="hi", options=SHORT)
    for line in lines:
        check(contract, "GenerateResponse", line)
    assert not missing(contract, "GenerateResponse", lines[-1])
    check(contract, "GenerateResponse", daemon.post("/api/generate", model="tiny", prompt="hi", stream=False).json())


def test_chat(contract: dict[str, Any], daemon: Daemon) -> None:
    lines = daemon.lines("/api/chat", model="tiny", messages=USER, options=SHORT)
    for line in lines:
        check(contract, "ChatResponse", line)
    assert not missing(contract, "ChatResponse", lines[-1])
    check(contract, "ChatResponse", daemon.post("/api/chat", model="tiny", messages=USER, stream=False).json())


def test_list(contract: dict[str, Any], daemon: Daemon) -> None:
    answer = daemon.http.get("/api/tags").json()
    check(contract, "ListResponse", answer)
    assert not missing(contract, "ListModelResponse", answer["models"][0])
    assert not missing(contract, "ModelDetails", answer["models"][0]["details"])


def test_show(contract: dict[str, Any], daemon: Daemon) -> None:
    fields: dict[str, Any] = {"from": "tiny", "system": "s", "license": "MIT", "parameters": {"seed": 1}}
    daemon.lines("/api/create", model="full", **fields, messages=USER)
    answer = daemon.post("/api/show", model="full").json()
    check(contract, "ShowResponse", answer)
    assert not missing(contract, "ShowResponse", answer)
    daemon.delete("full")


def test_processes(contract: dict[str, Any], daemon: Daemon) -> None:
    daemon.post("/api/generate", model="tiny")
    answer = daemon.http.get("/api/ps").json()
    check(contract, "ProcessResponse", answer)
    assert not missing(contract, "ProcessModelResponse", answer["models"][0])


def test_create(contract: dict[str, Any], daemon: Daemon) -> None:
    for line in daemon.lines("/api/create", model="copy", modelfile="FROM tiny"):
        check(contract, "ProgressResponse", line)
    daemon.delete("copy")


def test_version(contract: dict[str, Any], daemon: Daemon) -> None:
    content = contract["paths"]["/api/version"]["get"]["responses"]["200"]["content"]
    jsonschema.validate(daemon.http.get("/api/version").json(), content["application/json"]["schema"])


def test_every_endpoint_of_the_contract_is_served(contract: dict[str, Any], daemon: Daemon) -> None:
    for path, methods in contract["paths"].items():
        for method in methods:
            response = daemon.http.request(method, path.replace("{digest}", "sha256:" + "0" * 64))
            assert response.text not in ("404 page not found", "405 method not allowed"), (method, path)
