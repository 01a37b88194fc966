"""What multiplies and caps a decoder's embedding, residual and logits, and what its graph gives besides logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hearth_export.pipeline import GRAPH_FILE
from hearth_export.precision import Goal
from hearthd.store import variant
from tests.hearth_export.converted import converted, info_of, opened
from tests.hearth_export.flagged import TOKENS, architecture, assert_converts, flagged, turning, write_flagged

__all__ = ["architecture"]
pytestmark = pytest.mark.usefixtures("architecture")

CASES: dict[str, dict[str, Any]] = {
    "embedding": {"embedding_scale": 8.0},
    "residual": {"residual_scale": 0.22},
    "logits": {"logit_scale": 0.125},
    "cap": {"logit_softcap": 3.0},
    "cap of scaled logits": {"logit_softcap": 3.0, "logit_scale": 0.5},
    "all": {"embedding_scale": 3.0, "residual_scale": 0.3, "logit_scale": 0.5, "logit_softcap": 2.0},
}


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_scales_and_caps_compute_what_the_spec_says(tmp_path: Path, case: str, tied_head: bool) -> None:
    assert_converts(tmp_path, flagged(tied_head=tied_head, **CASES[case]))


def test_head_may_have_a_bias(tmp_path: Path) -> None:
    assert_converts(tmp_path, flagged(tied_head=False, logit_softcap=5.0), biases=True)


@pytest.mark.parametrize("goal", [Goal.FLOAT, Goal.BYTES])
def test_hidden_states_are_what_the_head_multiplies(tmp_path: Path, goal: Goal) -> None:
    spec = flagged(logit_scale=0.5, embedding_scale=2.0)
    directory = converted(write_flagged(tmp_path / "floats.gguf", spec), tmp_path / "variants", goal)
    session = opened(directory, len(TOKENS))
    feeds: dict[str, Any] = {
        variant.INPUT_IDS: np.array([TOKENS], np.int64),
        variant.SEQLENS_K: np.array([len(TOKENS) - 1], np.int32),
        variant.TOTAL_LENGTH: np.array([len(TOKENS)], np.int32),
        variant.ROWS: np.array([3, 21], np.int64),
        **session.rotations,
    }
    for layer, kind in ((layer, kind) for layer in range(spec.num_layers) for kind in ("key", "value")):
        feeds[variant.past_name(layer, kind)] = session.cache.of(layer, kind)
    hidden, logits = session.ort.run([variant.HIDDEN, variant.LOGITS], feeds)
    assert hidden.shape == (2, spec.hidden_size)
    embedding = np.random.default_rng(7).standard_normal((spec.vocab_size, spec.hidden_size), np.float32)
    error = np.linalg.norm(hidden @ embedding.T * 0.5 - logits) / np.linalg.norm(logits)
    assert error < (1e-5 if goal is Goal.FLOAT else 0.03)


def test_variant_tells_ropes_and_their_layers(tmp_path: Path) -> None:
    ropes = (turning(32), turning(16, 50.0, long_inv_freq=(1.0,) * 8, long_attention_scale=1.5, short_context=64))
    spec = flagged(num_layers=3, ropes=ropes, layer_ropes=(1, -1, 0))
    info = info_of(converted(write_flagged(tmp_path / "ropes.gguf", spec), tmp_path / "variants"))
    assert info.layer_ropes == [1, -1, 0]
    assert [len(rope.inv_freq) for rope in info.ropes] == [16, 8]
    assert (info.ropes[1].long_inv_freq, info.ropes[1].long_attention_scale) == ([1.0] * 8, 1.5)
    assert (info.ropes[1].short_context, info.has_hidden, info.kind) == (64, True, "decoder")


def test_spec_without_flags_leaves_no_node_of_theirs(tmp_path: Path) -> None:
    directory = converted(write_flagged(tmp_path / "plain.gguf", flagged(), matrix_type="Q8_0"), tmp_path / "variants")
    nodes = onnx.load(str(directory / GRAPH_FILE), load_external_data=False).graph.node
    layer = [node.op_type for node in nodes if node.name.startswith("layer.1.")]
    assert layer == [
        "SkipSimplifiedLayerNormalization",
        "MatMulNBits",
        "GroupQueryAttention",
        "MatMulNBits",
        "SkipSimplifiedLayerNormalization",
        "MatMulNBits",
        "Split",
        "QuickGelu",
        "Mul",
        "MatMulNBits",
    ]
    assert len(nodes) == 2 * len(layer) + 6  # embedding; last sum, reshape, rows, norm, head
