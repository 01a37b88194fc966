from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import GraniteMoeConfig

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Pairs,
    Tensor,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_mixture,
    assert_quantized_variant,
    permuting,
)

SCALES = {"embedding_multiplier": 3.0, "attention_multiplier": 0.15, "residual_multiplier": 0.4, "logits_scaling": 0.7}
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}


def family(**changes: Any) -> Family:
    config = GraniteMoeConfig(**{**SIZES, **SCALES, **EXPERTS, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)

    def changed(name: str, tensor: Tensor) -> Pairs:
        """Conversion parts gate from up."""
        layer, _, kind = name.partition(".block_sparse_moe.")
        if kind == "input_linear.weight":
            gate, up = tensor.chunk(2, dim=1)
            number = layer.rpartition(".")[2]
            return [(f"blk.{number}.ffn_gate_exps.weight", gate), (f"blk.{number}.ffn_up_exps.weight", up)]
        return permuting(config)(name, tensor)

    return Family(config, gguf.MODEL_ARCH.GRANITE_MOE, write_keys, changed=changed)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(), tmp_path_factory.mktemp("granitemoe"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close_where_no_choice_of_experts_can_change(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(num_experts_per_tok=6), tmp_path), source, 0.99)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_that_chooses_experts_mostly_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_mixture(Tiny(family(), tmp_path), source, 0.98)
