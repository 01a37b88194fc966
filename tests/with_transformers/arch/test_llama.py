from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import LlamaConfig

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    no_tensors,
    permuting,
    rope_factors,
    write_yarn_keys,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32},
    "no groups": {"num_key_value_heads": 4},
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
}
SOURCES = ("safetensors", "gguf")


def family(**changes: Any) -> Family:
    config = LlamaConfig(**{**SIZES, **changes})
    scaling = (config.rope_scaling or {}).get("rope_type")

    def write_keys(writer: gguf.GGUFWriter) -> None:
        write_yarn_keys(writer, config)
        if scaling == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_scaling["factor"])

    computed = rope_factors if scaling == "llama3" else no_tensors
    return Family(config, gguf.MODEL_ARCH.LLAMA, write_keys, permuting(config), computed)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.99)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_floats_are_read(tmp_path: Path, dtype: Any) -> None:
    assert_float_variant(Tiny(family(), tmp_path, dtype=dtype), "safetensors")
