"""The daemon killed while it makes a model."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.e2e.daemon import eventually, running
from tests.tiny import write_tiny_gguf


@pytest.mark.parametrize("at", ["quantizing", "converting"])
def test_daemon_killed_in_mid_create_leaves_the_old_model_and_no_temporary_file(tmp_path: Path, at: str) -> None:
    models = tmp_path / "models"
    source = write_tiny_gguf(
        tmp_path / "floats.gguf", num_layers=4, hidden_size=512, ffn_size=2048, matrix_type="F16", embedding_type="F16"
    )
    with running(tmp_path) as daemon:
        daemon.create("m", write_tiny_gguf(tmp_path / "old.gguf"))
        before = daemon.post("/api/show", model="m").json()["details"]
        body = {"model": "m", "modelfile": f"FROM {source}", "quantize": "q4_K_M"}
        with daemon.http.stream("POST", "/api/create", json=body) as answer:
            next(line for line in answer.iter_lines() if json.loads(line)["status"].startswith(at))
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
    eventually(lambda: not exporters_of(models), "the converter notices that its daemon is gone")
    with running(tmp_path) as daemon:
        assert daemon.post("/api/show", model="m").json()["details"] == before
        assert list(models.rglob(".tmp-*")) == []
        daemon.create("m", source, quantize="q4_K_M")
        assert daemon.post("/api/show", model="m").json()["details"]["quantization_level"] == "Q4_K_M"


def exporters_of(models: Path) -> list[str]:
    """Converters that work on this store."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"hearth_export" in words and str(models).encode() in words:
            found.append(path.parent.name)
    return found
