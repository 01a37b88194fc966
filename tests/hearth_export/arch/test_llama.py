from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.spec import Experts
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import NUM_LAYERS, spec_of
from tests.hearth_export.gguf_writer import Meta
from tests.hearth_export.safetensors_writer import LLAMA, llama_tensors

EXPERTS: dict[str, Meta] = {"expert_count": 8, "expert_used_count": 2}


def test_rows_of_files_alternate_between_the_halves_of_a_head(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "llama").ropes[0].rows_interleaved


def test_window_without_a_pattern_is_ignored_as_llama_cpp_does(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "llama", {"attention.sliding_window": 512}).windows == ()


def test_window_of_a_pattern_is_seen(tmp_path: Path) -> None:
    pattern = np.array([True] * 4 + [False] * 2)
    keys: dict[str, Meta] = {"attention.sliding_window": 512, "attention.sliding_window_pattern": pattern}
    assert spec_of(tmp_path, "llama", keys).windows == (512, 512, 512, 512, 0, 0)


def test_experts_are_as_wide_as_the_network_unless_told(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "llama", EXPERTS).experts == Experts(8, 2, 128)
    keys: dict[str, Meta] = {**EXPERTS, "expert_feed_forward_length": 96}
    assert spec_of(tmp_path, "llama", keys).experts == Experts(8, 2, 96)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_weights_of_experts_may_be_multiplied_by_nothing(tmp_path: Path, factor: float) -> None:
    assert spec_of(tmp_path, "llama", {**EXPERTS, "expert_weights_scale": factor}).experts == Experts(8, 2, 128)


@pytest.mark.parametrize(
    ("keys", "kind", "shown"),
    [
        ({"expert_count": 8}, BadCheckpoint, r"llama\.expert_used_count is missing"),
        ({"expert_count": 8, "expert_used_count": 9}, BadCheckpoint, r"expert_used_count is 9, outside 1\.\.8"),
        ({"expert_count": 1 << 20}, BadCheckpoint, "expert_count is 1048576"),
        ({**EXPERTS, "expert_weights_scale": 2.5}, UnsupportedModel, "expert_weights_scale is neither 0 nor 1"),
        ({"rope.dimension_count": 8}, UnsupportedModel, r"rope\.dimension_count is 8; only 16"),
        ({"attention.sliding_window_pattern": [True]}, BadCheckpoint, "an array of 1 bool where"),
        ({"attention.sliding_window_pattern": ["a"] * NUM_LAYERS}, BadCheckpoint, "an array of 6 string where"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(
    tmp_path: Path, keys: dict[str, Meta], kind: type[ExportError], shown: str
) -> None:
    with pytest.raises(kind, match=shown):
        spec_of(tmp_path, "llama", {"attention.sliding_window": 5, **keys})


def test_config_of_a_repository_says_the_same_keys() -> None:
    metadata = translate({**LLAMA, "rope_theta": 5e5}, set(llama_tensors())).metadata
    assert metadata["llama.rope.freq_base"] == 5e5
    assert metadata["llama.rope.dimension_count"] == 16
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5
    assert metadata["llama.vocab_size"] == 40


def test_llama3_scaling_becomes_a_tensor_of_divisors() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {**LLAMA, "rope_scaling": {**scaling, "original_max_position_embeddings": 64}}
    factors = translate(config, set(llama_tensors())).vectors["rope_freqs.weight"]
    assert (factors[0], factors[-1], len(factors)) == (1.0, 8.0, 8)
