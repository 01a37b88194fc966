from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import GraniteConfig

from hearth_export.precision import Goal
from tests.hearth_export.converted import converted
from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    cosines,
    llama_cpp_log_probabilities,
    permuting,
    text,
    variant_logits,
)

SCALES = {"embedding_multiplier": 3.0, "attention_multiplier": 0.15, "residual_multiplier": 0.4, "logits_scaling": 0.7}
CONFIGS: dict[str, dict[str, Any]] = {
    "scales": SCALES,
    "biases": {**SCALES, "attention_bias": True, "mlp_bias": True},
    "tied": {**SCALES, "tie_word_embeddings": True},
}


def family(*, turns: bool = True, **changes: Any) -> Family:
    config = GraniteConfig(**{**SIZES, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
        if not turns:
            writer.add_rope_scaling_finetuned(False)

    return Family(config, gguf.MODEL_ARCH.GRANITE, write_keys, changed=permuting(config))


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("granite"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(**CONFIGS["scales"]), tmp_path), source, 0.999)


def test_file_that_switches_rotary_embedding_off_gives_the_predictions_of_llama_cpp(tmp_path: Path) -> None:
    tiny, ids = Tiny(family(turns=False, **CONFIGS["scales"]), tmp_path), text()
    found = variant_logits(converted(tiny.gguf(), tmp_path / "variants", Goal.FLOAT), ids)
    expected = llama_cpp_log_probabilities(tiny.gguf(), ids)
    for logits in found.values():
        predicted = torch.log_softmax(torch.from_numpy(logits[-1]), -1).numpy()
        np.testing.assert_allclose(predicted, expected, atol=0.02)
    assert cosines(found["prefill"], tiny.logits(ids)).min() < 0.99, "turning makes no difference here"
