from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.spec import Experts, QKNorm
from tests.hearth_export.decoder_header import NUM_LAYERS, spec_of
from tests.hearth_export.gguf_writer import Meta, Tensor

KEYS: dict[str, Meta] = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 96}


def routers(*layers: int) -> list[Tensor]:
    return [Tensor(f"blk.{layer}.ffn_gate_inp.weight", (8, 64)) for layer in layers]


def test_layers_without_a_router_are_dense(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "qwen3moe", KEYS, *routers(0, 2, 3, 5))
    assert spec.dense_layers == {1, 4}
    assert (spec.experts, spec.qk_norm) == (Experts(8, 2, 96), QKNorm.HEAD)
    assert not spec.ropes[0].rows_interleaved


def test_chosen_weights_add_up_to_one_unless_the_file_denies_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "qwen3moe", {**KEYS, "expert_weights_norm": False}, *routers(*range(NUM_LAYERS)))
    assert spec.experts == Experts(8, 2, 96, normalised=False)


def test_file_without_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"qwen3moe\.expert_count is missing or 0"):
        spec_of(tmp_path, "qwen3moe")
