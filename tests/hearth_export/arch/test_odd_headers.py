"""A value in a GGUF header that makes no sense is refused by one sentence, whatever key has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.errors import ExportError
from tests.hearth_export.decoder_header import spec_of
from tests.hearth_export.gguf_writer import Meta

YARN: dict[str, Meta] = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_beta_fast": 32.0,
}
WINDOW: dict[str, Meta] = {"attention.sliding_window": 64, "attention.sliding_window_pattern": 2}
SCALES: dict[str, Meta] = {"logit_scale": 8.0, "residual_scale": 0.5, "embedding_scale": 2.0, "attention.scale": 0.1}
KEYS: dict[str, dict[str, Meta]] = {
    "gemma": {"attention.key_length": 16, "attention.value_length": 16},
    "gemma2": {**WINDOW, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3": {**WINDOW, "rope.freq_base_swa": 100.0, "attention.scale": 0.1},
    "phi3": {**WINDOW, "rope.dimension_count": 16},
    "granite": {**SCALES, "rope.scaling.finetuned": True},
    "granitemoe": {**SCALES, "expert_count": 4, "expert_used_count": 2},
    "smollm3": {**YARN, "attention.rope_pattern": [True] * 6},
    "olmo2": {**YARN, **WINDOW},
    "starcoder2": {"attention.layer_norm_epsilon": 1e-5},
}
USUAL: dict[str, Meta] = {
    "block_count": 6,
    "context_length": 4096,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.freq_base": 10000.0,
}
ODD: list[Meta] = [-1, 0, 3, 1 << 30, 1.5, -1e30, 1e30, float("nan"), "x", True, [1, 2], ["a"], [1.5] * 6]


@pytest.mark.parametrize("architecture", KEYS)
def test_odd_value_never_leaves_a_traceback(architecture: str, tmp_path: Path) -> None:
    keys = {**USUAL, **KEYS[architecture]}
    assert refusal(tmp_path, architecture, keys) == ""
    refusals = [refusal(tmp_path, architecture, {**keys, key: odd}) for key in keys for odd in ODD]
    assert sum(map(bool, refusals)) > 60
    assert not any("\n" in sentence for sentence in refusals)


def refusal(root: Path, architecture: str, keys: dict[str, Meta]) -> str:
    """The sentence by which such a file is refused; "" where it is not."""
    try:
        spec_of(root, architecture, keys)
    except ExportError as error:
        return str(error)
    return ""
