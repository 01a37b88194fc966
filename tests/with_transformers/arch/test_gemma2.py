from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import Gemma2Config

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

WINDOW = 8


def shifted(name: str, tensor: Tensor) -> Pairs:
    return [(name, tensor + 1 if name.endswith("norm.weight") else tensor)]


def family(**changes: Any) -> Family:
    sizes = {**SIZES, "num_hidden_layers": 4, "head_dim": 32, "sliding_window": WINDOW, "query_pre_attn_scalar": 32}
    config = Gemma2Config(**{**sizes, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_sliding_window(config.sliding_window)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)

    return Family(config, gguf.MODEL_ARCH.GEMMA2, write_keys, changed=shifted)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(), tmp_path_factory.mktemp("gemma2"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_pre_attn_scalar": 12},
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
        {"layer_types": ["full_attention"] * 4},
    ],
    ids=["attention scale", "no caps", "layer types", "no windows"],
)
def test_what_config_json_alone_can_say_is_followed(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(**changes), tmp_path), "safetensors")


def test_27b_scales_attention_by_its_width_a_head(tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 46, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    tiny = Tiny(family(**layers, num_key_value_heads=1, query_pre_attn_scalar=16), tmp_path)
    assert_llama_cpp_agrees(tiny)
    assert_float_variant(tiny, "gguf")


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close(tiny: Tiny, source: str) -> None:
    assert_quantized_variant(tiny, source, 0.999)
