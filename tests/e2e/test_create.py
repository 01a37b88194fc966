"""/api/create over HTTP: what only shows there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon
from tests.tiny import write_tiny_gguf


@pytest.fixture
def made(daemon: Daemon) -> Iterator[list[str]]:
    """Names of models that the test makes; they are gone after it."""
    created: list[str] = []
    yield created
    for name in created:
        daemon.http.request("DELETE", "/api/delete", json={"model": name})


def test_uploaded_floats_are_quantized_and_answer(daemon: Daemon, tmp_path: Path, made: list[str]) -> None:
    data = write_tiny_gguf(tmp_path / "floats.gguf", matrix_type="F16", embedding_type="F16").read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert daemon.http.post(f"/api/blobs/{digest}", content=data).status_code == 201
    made.append("small")
    lines = daemon.lines("/api/create", model="small", files={"floats.gguf": digest}, quantize="q8_0")
    statuses = list(dict.fromkeys(line["status"] for line in lines))
    bar = [line for line in lines if line["status"] == "quantizing F16 model to Q8_0"]
    assert bar[-1]["completed"] == bar[-1]["total"]
    assert bar[-1]["digest"] == digest
    wanted = ["parsing GGUF", "using autodetected template chatml", bar[0]["status"], "verifying conversion"]
    assert statuses[:4] == wanted
    assert lines[-1] == {"status": "success"}
    shown = daemon.post("/api/show", model="small").json()
    assert shown["details"]["quantization_level"] == "Q8_0"
    fields: dict[str, Any] = {"prompt": "x", "options": {"num_predict": 2}, "stream": False}
    assert daemon.post("/api/generate", model="small", **fields).json()["done"] is True
    assert daemon.post("/api/generate", model="small", keep_alive=0).status_code == 200


def test_names_of_other_servers_code_are_shown_and_survive_a_round_trip(daemon: Daemon, made: list[str]) -> None:
    made += ["first", "second"]
    fields = {"renderer": "r-1", "parser": "p-1", "requires": "0.14.0", "info": {"parameter_size": "9B"}}
    lines = daemon.lines("/api/create", model="first", **{"from": "tiny"}, **fields)
    assert {"status": "warning: renderer r-1 is kept, and has no effect on this server"} in lines
    first = daemon.post("/api/show", model="first").json()
    assert first["requires"] == "0.14.0"
    assert first["details"]["parameter_size"] == "9B"
    assert "\nRENDERER r-1\nPARSER p-1\n" in first["modelfile"]
    daemon.lines("/api/create", model="second", modelfile=first["modelfile"])
    assert "\nRENDERER r-1\nPARSER p-1\n" in daemon.post("/api/show", model="second").json()["modelfile"]


def test_refusal_before_any_progress_keeps_its_status(daemon: Daemon) -> None:
    answer = daemon.post("/api/create", model="new", **{"from": "tiny"}, quantize="q8_0")
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "quantization is only supported for F16, BF16 and F32 models"},
    )
    answer = daemon.post("/api/create", model="new", **{"from": "tiny"}, template="{{ end }}")
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "template error: template: :1: unexpected {{end}}"},
    )


def test_failure_after_progress_is_the_last_line(daemon: Daemon, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "floats.gguf", matrix_type="F16", embedding_type="F16")
    lines = daemon.lines("/api/create", model="new", modelfile=f"FROM {path}", quantize="q9_9")
    assert lines[0] == {"status": "parsing GGUF"}
    assert lines[-1]["error"].startswith("unsupported quantization type Q9_9 - supported types are")
    assert daemon.post("/api/show", model="new").status_code == 404
