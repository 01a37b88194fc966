from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import SmolLM3Config

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    permuting,
)

CONFIGS: dict[str, dict[str, Any]] = {"tied": {}, "untied": {"tie_word_embeddings": False}}


def family(**changes: Any) -> Family:
    config = SmolLM3Config(**{**SIZES, "num_hidden_layers": 5, "rope_theta": 10000.0, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)

    return Family(config, gguf.MODEL_ARCH.SMOLLM3, write_keys, changed=permuting(config))


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("smollm3"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny, 0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"no_rope_layers": [0, 1, 1, 0, 1]},
        {"no_rope_layer_interval": 2},
        {"use_sliding_window": True, "sliding_window": 9},
        {
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", *["full_attention"] * 4],
        },
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ],
    ids=["rope pattern", "rope interval", "windows", "layer types", "yarn"],
)
def test_what_config_json_alone_can_say_is_followed(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(**changes), tmp_path), "safetensors")


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.99)
