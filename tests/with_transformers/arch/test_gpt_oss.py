from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.hearth_export.converted import converted, info_of
from tests.with_transformers.harness import (
    SIZES,
    Family,
    Pairs,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_mixture,
    assert_quantized_variant,
    write_yarn_keys,
)

SOURCES = ("safetensors", "gguf")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one expert": {"num_experts_per_tok": 1},
}


def family(**changes: Any) -> Family:
    sizes = {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 13}
    config = GptOssConfig(**{**SIZES, **sizes, "rope_scaling": dict(YARN, truncate=True), **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_sliding_window(config.sliding_window)
        write_yarn_keys(writer, config)

    return Family(config, gguf.MODEL_ARCH.GPT_OSS, write_keys, experts_apart)


def experts_apart(name: str, tensor: Any) -> Pairs:
    """Gate and up alternate in one tensor, and matrices are stored turned."""
    if "down_proj" in name:
        return [(name + ".weight", tensor.transpose(1, 2))] if not name.endswith("bias") else [(dotted(name), tensor)]
    if "gate_up_proj" not in name:
        return [(name + ".weight" if name.endswith("sinks") else name, tensor)]
    turned = tensor if name.endswith("bias") else tensor.transpose(1, 2)
    halves = {"gate_proj": turned[:, 0::2], "up_proj": turned[:, 1::2]}
    return [(dotted(name.replace("gate_up_proj", half)), values) for half, values in halves.items()]


def dotted(name: str) -> str:
    return f"{name.removesuffix('_bias')}.bias" if name.endswith("_bias") else f"{name}.weight"


def test_ramp_between_frequencies_is_seen(tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(rope_scaling=dict(YARN, truncate=False)), tmp_path), "safetensors")


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("gpt_oss"))


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


def test_experts_in_mxfp4_keep_every_weight(tmp_path: Path) -> None:
    """As gpt-oss is published: two weights in a byte, a scale for 32 of them."""
    tiny = Tiny(family(), tmp_path)
    generator = np.random.default_rng(4)
    stored = load_file(tiny.directory / "model.safetensors")
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        num_experts, num_inputs, num_outputs = stored.pop(name).shape
        blocks = generator.integers(0, 256, (num_experts, num_outputs, num_inputs // 32, 16), np.uint8)
        scales = generator.integers(121, 125, blocks.shape[:-1], np.uint8)
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        weights = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
        tiny.model.get_parameter(name).data = weights
    save_file(stored, tiny.directory / "model.safetensors", {"format": "pt"})
    config = json.loads((tiny.directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tiny.directory / "config.json").write_text(json.dumps(config))
    assert_float_variant(tiny, "safetensors")
    directory = converted(tiny.directory, tmp_path / "quantized")
    assert "MXFP4" in info_of(directory).holders
