from __future__ import annotations

from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.translation import Source, Translation, translate
from tests.hearth_export.safetensors_writer import LLAMA, llama_tensors

CONFIG: dict[str, Any] = {**LLAMA, "model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
BLOCK = "model.layers.{}.block_sparse_moe"
EXPERTS = [
    f"{BLOCK.format(layer)}.{name}.weight"
    for layer in range(2)
    for name in ("gate", *(f"experts.{expert}.{matrix}" for expert in range(3) for matrix in ("w1", "w2", "w3")))
]
NAMES = {name for name in llama_tensors() if ".mlp." not in name} | set(EXPERTS)


def translation(names: set[str] = NAMES, **changes: Any) -> Translation:
    return translate({**CONFIG, **changes}, names)


def test_experts_of_a_layer_are_stacked_in_order() -> None:
    found = translation()
    assert found.architecture == "llama"
    assert found.tensors["blk.1.ffn_down_exps.weight"] == tuple(
        Source(f"{BLOCK.format(1)}.experts.{expert}.w2.weight") for expert in range(3)
    )
    assert "blk.0.ffn_up_exps.weight" in found.stacked
    assert "blk.0.ffn_gate_inp.weight" not in found.stacked
    assert (found.metadata["llama.expert_count"], found.metadata["llama.expert_used_count"]) == (3, 2)


def test_missing_expert_is_named() -> None:
    with pytest.raises(BadCheckpoint, match=r"block_sparse_moe\.experts\.2\.w3\.weight is missing"):
        translation(NAMES - {f"{BLOCK.format(0)}.experts.2.w3.weight"})


def test_every_layer_has_the_window() -> None:
    found = translation(sliding_window=64, layer_types=["full_attention", "full_attention"])
    assert found.metadata["llama.attention.sliding_window_pattern"] == [True, True]
    assert "llama.attention.sliding_window" not in translation(sliding_window=None).metadata
