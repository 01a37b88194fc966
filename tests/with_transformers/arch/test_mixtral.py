from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import MixtralConfig

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_mixture,
    assert_quantized_variant,
    permuting,
)

SOURCES = ("safetensors", "gguf")
CONFIGS: dict[str, dict[str, Any]] = {"plain": {}, "one of four": {"num_experts_per_tok": 1}}


def family(**changes: Any) -> Family:
    config = MixtralConfig(**{**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)

    return Family(config, gguf.MODEL_ARCH.LLAMA, write_keys, permuting(config))


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("mixtral"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(
        Tiny(family(num_experts_per_tok=4), tmp_path), source, 0.99
    )  # no expert is near to being chosen


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_that_chooses_experts_mostly_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_mixture(Tiny(family(), tmp_path), source, 0.98)
