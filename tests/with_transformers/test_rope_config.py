"""Frequencies of every kind of scaling, read from config.json by way of GGUF's words, against transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hearth_export.readers.huggingface import open_huggingface
from hearth_export.spec import ModelSpec, Rope, read_spec
from tests.with_transformers.harness import SIZES

HEAD_DIM = 64
YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 1024}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FACTORS = {"short_factor": np.linspace(1, 2, 32).tolist(), "long_factor": np.linspace(1, 20, 32).tolist()}
SCALINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "a part of a head": {"partial_rotary_factor": 0.75},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "llama3": {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 1024}},
    "yarn": {"rope_scaling": YARN},
    "yarn, own bounds": {"rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}},
    "yarn, own growth": {"rope_scaling": {**YARN, "attention_factor": 1.3}},
    "yarn, growth by scales": {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}},
    "longrope": {
        "original_max_position_embeddings": 1024,
        "rope_scaling": {"rope_type": "longrope", **FACTORS},
    },
    "longrope, own growth": {
        "original_max_position_embeddings": 1024,
        "rope_scaling": {"rope_type": "longrope", "attention_factor": 1.2, **FACTORS},
    },
}


def config_of(changes: dict[str, Any]) -> transformers.GraniteConfig:
    sizes = {**SIZES, "hidden_size": 4 * HEAD_DIM, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    return transformers.GraniteConfig(**{**sizes, **changes})


def rope_of(directory: Path, config: dict[str, Any]) -> Rope:
    (directory / "config.json").write_text(json.dumps(config))
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}})
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with open_huggingface(directory) as checkpoint:
        spec = read_spec(checkpoint)
    assert isinstance(spec, ModelSpec)
    return spec.ropes[0]


@pytest.mark.parametrize("changes", SCALINGS.values(), ids=SCALINGS)
def test_frequencies_are_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(changes)
    kind = (config.rope_scaling or {}).get("rope_type", "default")
    inv_freq, attention_scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    rope = rope_of(tmp_path, config.to_dict())
    np.testing.assert_allclose(rope.inv_freq, inv_freq.numpy(), rtol=3e-6)
    assert rope.attention_scale == pytest.approx(attention_scale)
    if kind == "longrope":
        long, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=4096)
        np.testing.assert_allclose(rope.long_inv_freq, long.numpy(), rtol=3e-6)
        assert rope.short_context == 1024


def test_one_block_for_all_settings_means_the_same(tmp_path: Path) -> None:
    old = config_of({"rope_theta": 5e5, "rope_scaling": YARN}).to_dict()
    new = {key: value for key, value in old.items() if not key.startswith("rope_")}
    new["rope_parameters"] = {**YARN, "rope_theta": 5e5}
    assert rope_of(tmp_path, new) == rope_of(tmp_path, old)


def test_old_name_of_the_type_means_the_same(tmp_path: Path) -> None:
    config = config_of({}).to_dict()
    renamed = {"type": "linear", "factor": 4.0}
    named = {"rope_type": "linear", "factor": 4.0}
    assert rope_of(tmp_path, {**config, "rope_scaling": renamed}) == rope_of(
        tmp_path, {**config, "rope_scaling": named}
    )
