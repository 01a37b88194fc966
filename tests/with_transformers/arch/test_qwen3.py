from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import Qwen3Config

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
)

SOURCES = ("safetensors", "gguf")
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True},
}


def family(**changes: Any) -> Family:
    return Family(Qwen3Config(**{**SIZES, "head_dim": 32, **changes}), gguf.MODEL_ARCH.QWEN3)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("qwen3"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.99)
