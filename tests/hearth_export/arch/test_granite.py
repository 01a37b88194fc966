from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import NUM_LAYERS, spec_of
from tests.hearth_export.gguf_writer import Meta

SCALES: dict[str, Meta] = {
    "embedding_scale": 12.0,
    "residual_scale": 0.25,
    "attention.scale": 0.125,
    "logit_scale": 8.0,
}


def test_scales_are_read_and_that_of_logits_divides(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "granite", SCALES)
    assert (spec.embedding_scale, spec.residual_scale) == (12, 0.25)
    assert (spec.attention_scale, spec.logit_scale) == (0.125, 1 / 8)
    assert spec.ropes[0].rows_interleaved


def test_scale_that_is_left_out_changes_nothing(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "granite", {"logit_scale": 1.0})
    assert (spec.embedding_scale, spec.residual_scale, spec.attention_scale) == (1, 1, 0)


def test_file_can_switch_rotary_embedding_off(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "granite", {**SCALES, "rope.scaling.finetuned": False})
    assert spec.ropes == ()
    assert [spec.rope_of(layer) for layer in range(NUM_LAYERS)] == [None] * NUM_LAYERS


@pytest.mark.parametrize(
    ("keys", "shown"),
    [({}, "granite.logit_scale is missing"), ({"logit_scale": 0.0}, "granite.logit_scale is 0.0, outside")],
)
def test_scale_of_logits_must_be_there(tmp_path: Path, keys: dict[str, Meta], shown: str) -> None:
    with pytest.raises(BadCheckpoint, match=shown):
        spec_of(tmp_path, "granite", keys)


def test_expert_that_every_token_passes_is_refused(tmp_path: Path) -> None:
    keys = {**SCALES, "expert_count": 4, "expert_used_count": 2, "expert_shared_feed_forward_length": 64}
    with pytest.raises(UnsupportedModel, match="expert_shared_feed_forward_length is 64"):
        spec_of(tmp_path, "granitemoe", keys)
    with pytest.raises(UnsupportedModel, match="shared_intermediate_size is 64"):
        translate({"model_type": "granitemoe", "shared_intermediate_size": 64}, set())


def test_more_experts_used_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"expert_used_count is 5, outside 1\.\.4"):
        spec_of(tmp_path, "granitemoe", {**SCALES, "expert_count": 4, "expert_used_count": 5})
