"""ONNX Runtime 1.29 and newer sends what it is used for to its makers, unless it is told not to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.daemon import running

FORBIDDEN = b"ORT_DISABLE_TELEMETRY=1"


def test_a_runner_is_told_to_send_no_telemetry(tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        assert daemon.post("/api/generate", model="tiny").status_code == 200
        (pid,) = daemon.runner_pids()
        assert FORBIDDEN in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize("package", ["hearthd", "hearth_export"])
def test_a_program_of_ours_sends_no_telemetry(package: str) -> None:
    program = f"import os, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
