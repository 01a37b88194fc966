from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import Experts
from hearth_export.translation import Source, translate
from tests.hearth_export.decoder_header import spec_of
from tests.hearth_export.gguf_writer import Meta
from tests.hearth_export.safetensors_writer import LLAMA

KEYS: dict[str, Meta] = {
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_feed_forward_length": 96,
    "attention.sliding_window": 128,
}
CONFIG: dict[str, Any] = {
    **LLAMA,
    "model_type": "gpt_oss",
    "head_dim": 16,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "sliding_window": 32,
}
PLACE = "model.layers.0.mlp.experts"
NAMES = {"model.embed_tokens.weight", "lm_head.weight"}


def test_every_other_layer_sees_a_window_and_the_first_does(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "gpt-oss", KEYS).windows == (128, 0, 128, 0, 128, 0)


def test_what_no_file_says_is_known(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "gpt-oss", KEYS)
    assert spec.experts == Experts(8, 2, 96, swiglu_limit=7.0, swiglu_alpha=1.702, swiglu_beta=1.0)
    assert (spec.sinks, spec.ffn_norm) == (True, "post_attention_norm")


def test_file_without_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"gpt-oss\.expert_count is missing or 0"):
        spec_of(tmp_path, "gpt-oss")


def test_gate_and_up_are_taken_apart() -> None:
    tensors = translate(CONFIG, NAMES).tensors
    assert tensors["blk.0.ffn_up_exps.weight"] == tuple(
        Source(f"{PLACE}.gate_up_proj", 192 * expert + 1, 192 * (expert + 1), 2, transposed=True) for expert in range(2)
    )
    assert tensors["blk.0.ffn_gate_exps.bias"] == tuple(
        Source(f"{PLACE}.gate_up_proj_bias", 192 * expert, 192 * (expert + 1), 2, flat=True) for expert in range(2)
    )


def test_blocks_of_mxfp4_are_seen_by_their_name() -> None:
    tensors = translate(CONFIG, NAMES | {f"{PLACE}.down_proj_blocks", f"{PLACE}.down_proj_scales"}).tensors
    assert tensors["blk.0.ffn_down_exps.weight"][1] == Source(
        f"{PLACE}.down_proj_blocks", 64, 128, scales=f"{PLACE}.down_proj_scales"
    )


def test_another_limit_of_the_activation_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"swiglu_limit is 5\.0; only 7\.0 can be converted"):
        translate({**CONFIG, "swiglu_limit": 5.0}, NAMES)
