from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, Gemma3Config, Gemma3TextConfig

from hearth_export.precision import Goal
from tests.hearth_export.converted import converted
from tests.with_transformers.harness import (
    SIZES,
    Family,
    Pairs,
    Tensor,
    Tiny,
    assert_alike,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    text,
    variant_logits,
)

WINDOW = 8
TEXT = {**SIZES, "num_hidden_layers": 7, "head_dim": 32, "sliding_window": WINDOW, "query_pre_attn_scalar": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "capped, without windows": {"final_logit_softcapping": 3.0, "layer_types": ["full_attention"] * 7},
}


def shifted(name: str, tensor: Tensor) -> Pairs:
    return [(name, tensor + 1 if name.endswith("norm.weight") else tensor)]


def family(**changes: Any) -> Family:
    config = Gemma3TextConfig(**{**TEXT, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        if "sliding_attention" in config.layer_types:
            writer.add_sliding_window(config.sliding_window)
        if config.rope_scaling:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_scaling["factor"])
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)

    return Family(config, gguf.MODEL_ARCH.GEMMA3, write_keys, changed=shifted)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("gemma3"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_pre_attn_scalar": 12},
        {"final_logit_softcapping": 3.0},
        {"rope_local_base_freq": 500.0, "rope_theta": 5000.0},
        {"sliding_window_pattern": 3},
        {"layer_types": ["full_attention", *["sliding_attention"] * 6]},
    ],
    ids=["attention scale", "cap", "rotary bases", "period", "layer types"],
)
def test_what_config_json_alone_can_say_is_followed(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(**changes), tmp_path), "safetensors")


def test_text_part_of_a_checkpoint_with_vision_is_taken(tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    text_config = {**TEXT, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    config = Gemma3Config(text_config=text_config, vision_config=vision, mm_tokens_per_image=4)
    tiny = Tiny(Family(config, gguf.MODEL_ARCH.GEMMA3, model=AutoModelForImageTextToText), tmp_path)
    ids = text()
    with torch.no_grad():
        expected = tiny.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    directory = converted(tiny.directory, tmp_path / "variants", Goal.FLOAT)
    assert_alike(variant_logits(directory, ids), expected)


def test_vision_in_a_file_of_ollama_is_left_out(tmp_path: Path) -> None:
    plain = family()

    def write_keys(writer: gguf.GGUFWriter) -> None:
        plain.write_keys(writer)
        writer.add_uint32("gemma3.vision.block_count", 1)
        writer.add_tensor("v.blk.0.attn_q.weight", np.ones((32, 32), np.float32))
        writer.add_tensor("v.patch_embedding.weight", np.ones((8, 3, 2, 2), np.float32))
        writer.add_tensor("mm.mm_soft_emb_norm.weight", np.ones(32, np.float32))

    assert_float_variant(Tiny(dataclasses.replace(plain, write_keys=write_keys), tmp_path), "gguf")


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.999)


def test_bfloat16_checkpoint_is_read(tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(), tmp_path, dtype=torch.bfloat16), "safetensors")
