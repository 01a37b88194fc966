from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import GemmaConfig

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Pairs,
    Tensor,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "tied": {},
    "one key head": {"num_key_value_heads": 1},
}


def shifted(name: str, tensor: Tensor) -> Pairs:
    """Conversion to GGUF adds the 1 to the norms of Gemma."""
    return [(name, tensor + 1 if name.endswith("norm.weight") else tensor)]


def family(**changes: Any) -> Family:
    config = GemmaConfig(**{**SIZES, "head_dim": 32, **changes})
    return Family(config, gguf.MODEL_ARCH.GEMMA, changed=shifted)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("gemma"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


def test_quantized_variant_stays_close(tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), "safetensors", 0.99)
