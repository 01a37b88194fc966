"""Rotary settings of config.json that make no sense; tests/with_transformers compares those that do."""

from __future__ import annotations

from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.rope_config import translate_rope

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}


def test_keys_are_those_of_gguf() -> None:
    config = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4}, "partial_rotary_factor": 0.5}
    words = translate_rope("granite", config, 64)
    assert words.vectors == {}
    assert words.metadata == {
        "granite.rope.freq_base": 500.0,
        "granite.rope.dimension_count": 32,
        "granite.rope.scaling.type": "linear",
        "granite.rope.scaling.factor": 4.0,
    }


def test_llama3_scaling_becomes_divisors_as_gguf_has_them() -> None:
    words = translate_rope("llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8192}}, 128)
    divisors = words.vectors["rope_freqs.weight"]
    assert len(divisors) == 64
    assert divisors[0] == 1
    assert divisors[-1] == 8
    assert divisors == sorted(divisors)


@pytest.mark.parametrize(
    ("config", "kind", "shown"),
    [
        ({"rope_scaling": {"type": "ntk"}}, UnsupportedModel, "rope_scaling is of type 'ntk', which cannot"),
        ({"rope_parameters": {"rope_type": 7}}, UnsupportedModel, "rope_parameters is of type '7'"),
        ({"rope_scaling": 3}, BadCheckpoint, "rope_scaling is no object"),
        ({"rope_parameters": {"full_attention": [1]}}, BadCheckpoint, "rope_parameters.full_attention is no object"),
        ({"rope_scaling": {"type": "linear"}}, BadCheckpoint, "rope_scaling.factor is missing"),
        ({"rope_scaling": {**YARN, "factor": "x"}}, BadCheckpoint, 'rope_scaling.factor is "x" where a number'),
        ({"rope_scaling": YARN}, BadCheckpoint, "max_position_embeddings is missing"),
        ({"rope_scaling": LLAMA3}, BadCheckpoint, "rope_scaling.original_max_position_embeddings is missing"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, BadCheckpoint, "which make no llama3 scaling"),
        ({"rope_scaling": {**LLAMA3, "factor": 0}}, BadCheckpoint, "which make no llama3 scaling"),
        ({"rope_theta": -1.0}, BadCheckpoint, "rope_theta is -1.0, outside"),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": "x"}}, BadCheckpoint, "rope_parameters.rope_theta is"),
        ({"partial_rotary_factor": 0}, BadCheckpoint, "partial_rotary_factor is 0.0"),
    ],
)
def test_odd_settings_are_refused_naming_where_they_stand(
    config: dict[str, Any], kind: type[ExportError], shown: str
) -> None:
    with pytest.raises(kind) as error:
        translate_rope("llama", config, 64)
    assert str(error.value).startswith("config.json: ")
    assert shown in str(error.value)
