from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import MistralConfig

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    permuting,
)

SOURCES = ("safetensors", "gguf")
WINDOW = 13  # texts are longer
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"sliding_window": None},
    "wide heads": {"sliding_window": None, "head_dim": 32},
}


def family(**changes: Any) -> Family:
    config = MistralConfig(**{**SIZES, "sliding_window": None, **changes})
    return Family(config, gguf.MODEL_ARCH.LLAMA, changed=permuting(config))


def test_window_is_seen(tmp_path: Path) -> None:
    tiny = Tiny(family(sliding_window=WINDOW), tmp_path)
    assert_float_variant(tiny, "safetensors")
    assert_quantized_variant(tiny, "safetensors", 0.99)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("mistral"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.99)
