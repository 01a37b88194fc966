from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.precision import Goal
from hearth_export.spec import QKNorm
from hearthd.engine.session import open_session
from tests.hearth_export.converted import converted, info_of
from tests.hearth_export.flagged import (
    TOKENS,
    architecture,
    assert_converts,
    assert_equal_to_float_arithmetic,
    flagged,
    form_of,
    turning,
    write_flagged,
)
from tests.hearth_export.float_decoder import FloatDecoder
from tests.hearth_export.gguf_writer import Tensor

__all__ = ["architecture"]
pytestmark = pytest.mark.usefixtures("architecture")

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window in one layer": {"windows": (5, 0)},
    "windows in all layers": {"windows": (5, 9)},
    "window of one token": {"windows": (1, 1)},
    "soft cap": {"attention_softcap": 1.5},
    "soft cap in a window": {"attention_softcap": 1.5, "windows": (5, 0)},
    "sinks": {"sinks": True},
    "sinks in a window": {"sinks": True, "windows": (0, 6)},
    "norms by head": {"qk_norm": QKNorm.HEAD},
    "norms over all heads": {"qk_norm": QKNorm.WHOLE},
    "scale": {"attention_scale": 0.5},
    "rope over half a head": {"ropes": (turning(16),)},
    "two ropes": {"ropes": (turning(32), turning(32, 50.0)), "layer_ropes": (1, 0)},
    "two ropes of two widths": {"ropes": (turning(32), turning(16, 50.0)), "layer_ropes": (1, 0)},
    "layer without rope": {"layer_ropes": (0, -1)},
    "no rope at all": {"ropes": (), "layer_ropes": (-1, -1)},
    "rope that grows": {"ropes": (turning(32, attention_scale=1.3),)},
    "interleaved rows": {"ropes": (turning(32, rows_interleaved=True),)},
    "heads of 48": {"head_dim": 48, "ropes": (turning(48),)},
    "one key head": {"num_kv_heads": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_attention_computes_what_the_spec_says(tmp_path: Path, case: str) -> None:
    assert_converts(tmp_path, flagged(**CASES[case]))


@pytest.mark.parametrize("kv_type", ["f32", "q8_0"])
@pytest.mark.parametrize("case", ["window in one layer", "soft cap in a window", "sinks in a window", "two ropes"])
def test_sequences_of_different_lengths_share_a_step(tmp_path: Path, case: str, kv_type: str) -> None:
    spec = flagged(**CASES[case])
    source = write_flagged(tmp_path / "floats.gguf", spec)
    directory, reference = converted(source, tmp_path / "variants", Goal.FLOAT), FloatDecoder(spec, source)
    texts = [TOKENS, TOKENS[12:4:-1]]
    session = open_session(
        directory, info_of(directory), num_ctx=64, num_threads=2, num_slots=2, form=form_of(spec, kv_type)
    )
    for slot, text in enumerate(texts):
        session.evaluate(text, slot=slot)
    for token in (99, 71, 140):
        session.decode((token, token + 1), [len(text) for text in texts])
        texts = [[*text, token + slot] for slot, text in enumerate(texts)]
        for slot, text in enumerate(texts):
            want = reference.logits(text)[-1]
            error = np.linalg.norm(session.logits[slot] - want) / np.linalg.norm(want)
            assert error < (1e-5 if kv_type == "f32" else 0.1)


@pytest.mark.parametrize("qk_norm", QKNorm)
def test_queries_keys_and_values_may_be_one_tensor(tmp_path: Path, qk_norm: QKNorm) -> None:
    assert_converts(tmp_path, flagged(qk_norm=qk_norm), fused=True, biases=True)


@pytest.mark.parametrize("qk_norm", QKNorm)
def test_queries_keys_and_values_may_be_held_in_different_ways(tmp_path: Path, qk_norm: QKNorm) -> None:
    spec = flagged(qk_norm=qk_norm)
    source = write_flagged(tmp_path / "mixed.gguf", spec, matrix_type="Q4_1", types={"attn_v": "Q8_0"}, biases=True)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants", spec, Goal.BYTES)


def test_every_projection_may_have_a_bias(tmp_path: Path) -> None:
    assert_converts(tmp_path, flagged(), biases=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"head_dim": 24, "ropes": (turning(24),)}, "attention heads of 24 values"),
        ({"ropes": (turning(24),)}, "rotary embedding of 24 values"),
        ({"ropes": (turning(48),)}, "rotary embedding of 48 values .*at most 32"),
        ({"qk_norm": QKNorm.WHOLE, "ropes": (turning(32, rows_interleaved=True),)}, "norms of queries and keys"),
        ({"causal": False}, "a decoder whose tokens see those behind them"),
    ],
)
def test_what_the_attention_kernel_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    source = write_flagged(tmp_path / "odd.gguf", flagged(**changes))
    with pytest.raises(UnsupportedModel, match=rf"odd\.gguf: flagged: {sentence}"):
        converted(source, tmp_path / "variants")


def test_one_tensor_of_rows_that_alternate_is_refused(tmp_path: Path) -> None:
    spec = flagged(ropes=(turning(32, rows_interleaved=True),))
    source = write_flagged(tmp_path / "odd.gguf", spec, fused=True)
    with pytest.raises(UnsupportedModel, match=r"tensor blk\.0\.attn_qkv\.weight .* rows alternate"):
        converted(source, tmp_path / "variants")


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("attn_sinks", 0, "is missing"),
        ("attn_sinks", 5, r"has the shape \(5,\), expected \(4,\)"),
        ("attn_q_norm", 0, "is missing"),
        ("attn_k_norm", 64, r"has the shape \(64,\), expected \(32,\)"),
    ],
)
def test_vector_that_is_missing_or_of_another_size_is_named(
    tmp_path: Path, name: str, size: int, sentence: str
) -> None:
    tensor = f"blk.1.{name}.weight"
    other = Tensor(tensor, (size,), "F32", np.ones(size, np.float32)) if size else None
    spec = flagged(sinks=True, qk_norm=QKNorm.HEAD)
    source = write_flagged(tmp_path / "odd.gguf", spec, changed={tensor: other})
    with pytest.raises(BadCheckpoint, match=rf"odd\.gguf: tensor {tensor} {sentence}"):
        converted(source, tmp_path / "variants")
