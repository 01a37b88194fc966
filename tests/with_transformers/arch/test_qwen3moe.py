from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import Qwen3MoeConfig

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_mixture,
    assert_quantized_variant,
)

SOURCES = ("safetensors", "gguf")
EXPERTS: dict[str, Any] = {
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
CONFIGS: dict[str, dict[str, Any]] = {"plain": {}, "three of six": {"num_experts_per_tok": 3}}


def family(**changes: Any) -> Family:
    config = Qwen3MoeConfig(**{**SIZES, **EXPERTS, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)

    return Family(config, gguf.MODEL_ARCH.QWEN3MOE, write_keys)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("qwen3moe"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(
        Tiny(family(num_experts_per_tok=6), tmp_path), source, 0.99
    )  # no expert is near to being chosen


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_that_chooses_experts_mostly_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_mixture(Tiny(family(), tmp_path), source, 0.98)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_topk_prob": False},
        {"mlp_only_layers": [1]},
        {"decoder_sparse_step": 2},
        {"use_sliding_window": True, "sliding_window": 13},
    ],
    ids=str,
)
def test_what_gguf_has_no_words_for_is_seen(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert_float_variant(Tiny(family(**changes), tmp_path), "safetensors")
