from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.precision import Goal
from hearth_export.spec import Activation
from tests.hearth_export.converted import converted
from tests.hearth_export.flagged import (
    architecture,
    assert_converts,
    assert_equal_to_float_arithmetic,
    flagged,
    write_flagged,
)
from tests.hearth_export.gguf_writer import Tensor

__all__ = ["architecture"]
pytestmark = pytest.mark.usefixtures("architecture")


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", Activation)
def test_every_activation_computes_what_its_name_says(tmp_path: Path, activation: Activation, gated: bool) -> None:
    assert_converts(tmp_path, flagged(activation=activation, gated=gated), biases=True)


@pytest.mark.parametrize("biases", [True, False])
def test_gate_and_up_may_be_one_tensor(tmp_path: Path, biases: bool) -> None:
    assert_converts(tmp_path, flagged(), fused=True, biases=biases, quantized="Q4_1")


def test_gate_and_up_may_be_held_in_different_ways(tmp_path: Path) -> None:
    spec = flagged()
    source = write_flagged(tmp_path / "mixed.gguf", spec, matrix_type="Q8_0", types={"ffn_up": "Q4_1"}, biases=True)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants", spec, Goal.BYTES)


def test_gate_without_use_is_refused(tmp_path: Path) -> None:
    extra = Tensor("blk.0.ffn_gate.weight", (96, 64), "F32", np.ones((96, 64), np.float32))
    source = write_flagged(tmp_path / "odd.gguf", flagged(gated=False), changed={extra.name: extra})
    with pytest.raises(UnsupportedModel, match=r"odd\.gguf: tensor blk\.0\.ffn_gate\.weight has no place"):
        converted(source, tmp_path / "variants")


def test_missing_gate_is_found_by_the_shape_of_up(tmp_path: Path) -> None:
    source = write_flagged(tmp_path / "odd.gguf", flagged(), changed={"blk.0.ffn_gate.weight": None})
    with pytest.raises(BadCheckpoint, match=r"blk\.0\.ffn_up\.weight has the shape \(96, 64\), expected \(192, 64\)"):
        converted(source, tmp_path / "variants")
