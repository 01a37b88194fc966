from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import Olmo2Config, Olmo3Config

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def olmo2(**changes: Any) -> Family:
    return Family(Olmo2Config(**{**SIZES, **changes}), gguf.MODEL_ARCH.OLMO2)


def olmo3(**changes: Any) -> Family:
    config = Olmo3Config(**{**SIZES, "num_hidden_layers": 5, "sliding_window": 9, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
        if config.rope_scaling:
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(YARN["factor"])
            writer.add_rope_scaling_orig_ctx_len(YARN["original_max_position_embeddings"])

    return Family(config, gguf.MODEL_ARCH.OLMO2, write_keys)


FAMILIES = {
    "2": olmo2(),
    "2, one head a key": olmo2(num_key_value_heads=4),
    "3": olmo3(),
    "3, yarn": olmo3(rope_scaling=YARN),
}


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(FAMILIES[request.param], tmp_path_factory.mktemp("olmo"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
@pytest.mark.parametrize(("kind", "least"), [("2", 0.999), ("3", 0.99), ("3, yarn", 0.99)])
def test_quantized_variant_stays_close(kind: str, least: float, source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(FAMILIES[kind], tmp_path), source, least)
