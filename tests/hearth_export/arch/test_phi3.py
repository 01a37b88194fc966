from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import CONTEXT_LENGTH, spec_of
from tests.hearth_export.gguf_writer import Meta, Tensor

FACTORS = [Tensor(f"rope_factors_{kind}.weight", (8,), "F32", np.full(8, divisor, np.float32))
           for kind, divisor in (("short", 2), ("long", 16))]  # fmt: skip
CONFIG = {
    "model_type": "phi3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
}
LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def test_factors_of_the_file_make_a_longrope_though_no_key_says_so(tmp_path: Path) -> None:
    keys: dict[str, Meta] = {"rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": 1.5}
    (rope,) = spec_of(tmp_path, "phi3", keys, *FACTORS).ropes
    assert rope.inv_freq[0] == 1 / 2
    assert rope.long_inv_freq[0] == 1 / 16
    assert (rope.attention_scale, rope.long_attention_scale, rope.short_context) == (1.5, 1.5, 512)


def test_rope_over_a_part_of_a_head_has_the_frequencies_of_that_part(tmp_path: Path) -> None:
    (rope,) = spec_of(tmp_path, "phi3", {"rope.dimension_count": 8}).ropes
    assert rope.inv_freq == pytest.approx([1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(("window", "windows"), [(0, ()), (2047, (2047,) * 6), (CONTEXT_LENGTH, ())])
def test_window_as_long_as_the_context_is_none(tmp_path: Path, window: int, windows: tuple[int, ...]) -> None:
    assert spec_of(tmp_path, "phi3", {"attention.sliding_window": window}).windows == windows


@pytest.mark.parametrize("count", [0, 3, 18])
def test_odd_count_of_values_that_turn_is_refused_by_name(tmp_path: Path, count: int) -> None:
    with pytest.raises(BadCheckpoint, match=rf"phi3\.rope\.dimension_count is {count}, not an even number in 2\.\.16"):
        spec_of(tmp_path, "phi3", {"rope.dimension_count": count})


@pytest.mark.parametrize("only", FACTORS, ids=["short", "long"])
def test_half_a_longrope_is_refused_naming_the_other_half(tmp_path: Path, only: Tensor) -> None:
    missing = "long" if "short" in only.name else "short"
    with pytest.raises(BadCheckpoint, match=f"rope_factors_{missing}.weight is missing"):
        spec_of(tmp_path, "phi3", {}, only)


@pytest.mark.parametrize(
    ("changes", "kind", "shown"),
    [
        ({"rope_scaling": {**LONG, "long_factor": "x"}}, BadCheckpoint, "rope_scaling.long_factor is no list"),
        ({"rope_scaling": {**LONG, "long_factor": [1, None]}}, BadCheckpoint, "rope_scaling.long_factor is missing"),
        ({"rope_scaling": {"type": "longrope"}}, BadCheckpoint, "rope_scaling.long_factor is no list"),
        ({"partial_rotary_factor": 0.1}, BadCheckpoint, "partial_rotary_factor is 0.1"),
        ({"partial_rotary_factor": 2}, BadCheckpoint, "partial_rotary_factor is 2.0"),
        ({"hidden_act": "gelu"}, UnsupportedModel, 'hidden_act is "gelu"'),
        ({"original_max_position_embeddings": -1}, BadCheckpoint, "original_max_position_embeddings is -1"),
    ],
)
def test_odd_config_is_refused_by_one_sentence(changes: dict[str, Any], kind: type[ExportError], shown: str) -> None:
    usual = {"rope_scaling": LONG} if "original_max_position_embeddings" in changes else {}
    with pytest.raises(kind) as error:
        translate({**CONFIG, **usual, **changes}, {"lm_head.weight"})
    assert str(error.value).startswith("config.json: ")
    assert shown in str(error.value)
