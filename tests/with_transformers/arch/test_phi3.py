from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import Phi3Config

from hearth_export.precision import Goal
from tests.hearth_export.converted import converted
from tests.with_transformers.harness import (
    CONTEXT_LENGTH,
    SIZES,
    Family,
    Tiny,
    assert_alike,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    llama_cpp_log_probabilities,
    text,
    variant_logits,
)

# Heads of 32 values, of which half turn.
PARTIAL = {"num_attention_heads": 2, "num_key_value_heads": 1, "partial_rotary_factor": 0.5}
ORIGINAL = 40  # the window before it was made longer; texts end before and behind it
LONG = {
    **PARTIAL,
    "original_max_position_embeddings": ORIGINAL,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": np.linspace(1, 1.5, 8).tolist(),
        "long_factor": np.linspace(1, 20, 8).tolist(),
    },
}
CONFIGS: dict[str, dict[str, Any]] = {
    "whole heads": {},
    "parts of heads": PARTIAL,
    "tied": {"tie_word_embeddings": True},
}


def family(**changes: Any) -> Family:
    usual = {"original_max_position_embeddings": CONTEXT_LENGTH, "sliding_window": None}
    config = Phi3Config(**{**SIZES, **usual, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        head_dim = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(config.partial_rotary_factor * head_dim))
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_sliding_window(config.sliding_window or 0)
        if config.rope_scaling:
            factor = config.max_position_embeddings / config.original_max_position_embeddings
            growth = math.sqrt(1 + math.log(factor) / math.log(config.original_max_position_embeddings))
            writer.add_rope_scaling_attn_factors(growth)
            for kind in ("long", "short"):
                factors = np.array(config.rope_scaling[f"{kind}_factor"], np.float32)
                writer.add_tensor(f"rope_factors_{kind}.weight", factors)

    return Family(config, gguf.MODEL_ARCH.PHI3, write_keys)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("phi3"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**LONG), tmp_path_factory.mktemp("longrope"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL])
def test_longrope_takes_the_factors_of_the_context_it_runs_with(long: Tiny, source: str, length: int) -> None:
    directory = converted(long.source(source), long.root / f"variants-{source}", Goal.FLOAT)
    ids = text(length=length)
    assert_alike(variant_logits(directory, ids), long.logits(ids))


def test_longrope_under_its_old_name_is_read(tmp_path: Path) -> None:
    tiny = Tiny(family(**LONG), tmp_path)
    path = tiny.directory / "config.json"
    path.write_text(path.read_text().replace('"longrope"', '"su"'))
    assert_float_variant(tiny, "safetensors", text(length=ORIGINAL))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_window_is_kept_as_the_model_was_trained(source: str, tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(sliding_window=9), tmp_path), source)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(**PARTIAL), tmp_path), source, 0.99)


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
@pytest.mark.parametrize("length", [ORIGINAL, 2 * ORIGINAL])
def test_quantized_variant_of_a_lengthened_window_stays_close(
    long: Tiny, length: int, source: str, tmp_path: Path
) -> None:
    ids = text(length=length)
    directory = converted(long.source(source), tmp_path)
    assert_alike(variant_logits(directory, ids), long.logits(ids), 0.96)


def test_llama_cpp_takes_the_long_factors_of_the_same_file(long: Tiny) -> None:
    ids = text()  # longer than the original window, and so is llama.cpp's context
    expected = torch.log_softmax(torch.from_numpy(long.logits(ids)[-1]), -1).numpy()
    np.testing.assert_allclose(llama_cpp_log_probabilities(long.gguf(), ids), expected, atol=0.02)
