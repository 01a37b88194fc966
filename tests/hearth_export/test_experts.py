from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.pipeline import convert
from hearth_export.precision import Goal
from hearth_export.spec import Activation, Experts
from tests.hearth_export.converted import DIGEST, converted, info_of
from tests.hearth_export.flagged import (
    architecture,
    assert_converts,
    assert_equal_to_float_arithmetic,
    flagged,
    write_flagged,
)
from tests.hearth_export.gguf_writer import Tensor
from tests.hearth_export.test_verify import Damage, swap_rows

__all__ = ["architecture"]
pytestmark = pytest.mark.usefixtures("architecture")

FEW = Experts(num=4, num_used=2, ffn_size=32)
ONE_OF_MANY: dict[str, Any] = {"num": 6, "num_used": 1, "ffn_size": 96}
LIMITED: dict[str, Any] = {"swiglu_limit": 0.7, "swiglu_alpha": 1.702, "swiglu_beta": 1.0}
# int8 activations may change which experts are chosen, so quantized ones are compared where all are
ALL: dict[str, Any] = {"num": 3, "num_used": 3, "ffn_size": 64}


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("changes", [{}, ONE_OF_MANY, LIMITED], ids=["plain", "one of many", "limited"])
def test_floats_of_experts_compute_what_the_spec_says(
    tmp_path: Path, changes: dict[str, Any], normalised: bool, biases: bool
) -> None:
    experts = Experts(**{"num": 4, "num_used": 2, "ffn_size": 32, **changes, "normalised": normalised})
    spec = flagged(experts=experts)
    source = write_flagged(tmp_path / "experts.gguf", spec, biases=biases)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants", spec)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("changes", [{}, LIMITED], ids=["plain", "limited"])
def test_codes_of_experts_compute_what_the_spec_says(
    tmp_path: Path, changes: dict[str, Any], normalised: bool, biases: bool
) -> None:
    assert_converts(tmp_path, flagged(experts=Experts(**ALL, **changes, normalised=normalised)), biases=biases)


@pytest.mark.parametrize(
    ("types", "holders"),
    [
        ({"ffn_gate_exps": "Q4_0", "ffn_up_exps": "Q4_0", "ffn_down_exps": "Q4_0"}, {"Q4_0": "exact"}),
        ({"ffn_gate_exps": "Q4_1", "ffn_up_exps": "Q4_1", "ffn_down_exps": "Q5_1"}, {"Q4_1": "q8s", "Q5_1": "q8s"}),
        ({"ffn_gate_exps": "Q4_0", "ffn_up_exps": "Q8_0", "ffn_down_exps": "Q4_1"}, {"Q4_0": "exact", "Q4_1": "q8s"}),
        ({"ffn_gate_exps": "Q4_0", "ffn_up_exps": "Q4_0", "ffn_down_exps": "F16"}, {"Q4_0": "exact", "F16": "exact"}),
    ],
)
def test_matrices_of_an_expert_may_be_of_different_types(
    tmp_path: Path, types: dict[str, str], holders: dict[str, str]
) -> None:
    spec = flagged(experts=Experts(**ALL))
    source = write_flagged(tmp_path / "experts.gguf", spec, matrix_type="Q8_0", types=types)
    directory = assert_equal_to_float_arithmetic(source, tmp_path / "variants", spec, Goal.BYTES)
    assert info_of(directory).holders.items() >= holders.items()


@pytest.mark.parametrize("down", ["Q3_K", "Q8_0"])
def test_blocks_of_16_and_of_32_may_be_mixed(tmp_path: Path, down: str) -> None:
    spec = flagged(hidden_size=256, experts=Experts(num=2, num_used=2, ffn_size=256))
    types = {"ffn_gate_exps": "Q6_K", "ffn_up_exps": "Q4_K", "ffn_down_exps": down}
    source = write_flagged(tmp_path / "experts.gguf", spec, matrix_type="Q8_0", types=types)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants", spec, Goal.BYTES)


def test_some_layers_may_have_no_experts(tmp_path: Path) -> None:
    assert_converts(tmp_path, flagged(experts=Experts(**ALL), dense_layers=frozenset({0})))


def test_other_activations_are_refused(tmp_path: Path) -> None:
    source = write_flagged(tmp_path / "odd.gguf", flagged(experts=FEW, activation=Activation.GELU))
    with pytest.raises(UnsupportedModel, match=r"odd\.gguf: flagged: experts with the activation gelu"):
        converted(source, tmp_path / "variants")


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("ffn_gate_inp.weight", (), "is missing"),
        ("ffn_gate_inp.weight", (5, 64), r"has the shape \(5, 64\), expected \(4, 64\)"),
        ("ffn_up_exps.weight", (), "is missing"),
        ("ffn_up_exps.weight", (3, 32, 64), r"has the shape \(3, 32, 64\), expected \(4, 32, 64\)"),
        ("ffn_gate_exps.weight", (5, 32, 64), r"has the shape \(5, 32, 64\), expected \(4, 32, 64\)"),
        ("ffn_down_exps.weight", (4, 32, 64), r"has the shape \(4, 32, 64\), expected \(4, 64, 32\)"),
        ("ffn_up_exps.bias", (5, 32), r"has the shape \(5, 32\), expected \(4, 32\)"),
        ("ffn_down_exps.bias", (4, 32), r"has the shape \(4, 32\), expected \(4, 64\)"),
    ],
)
def test_tensor_that_is_missing_or_of_another_shape_is_named(
    tmp_path: Path, name: str, shape: tuple[int, ...], sentence: str
) -> None:
    tensor = f"blk.1.{name}"
    other = Tensor(tensor, shape, "F32", np.ones(shape, np.float32)) if shape else None
    source = write_flagged(tmp_path / "odd.gguf", flagged(experts=FEW), biases=True, changed={tensor: other})
    with pytest.raises(BadCheckpoint, match=rf"odd\.gguf: tensor {tensor} {sentence}"):
        converted(source, tmp_path / "variants")


@pytest.mark.parametrize("expert", [0, 1, 3])
def test_damaged_matrix_of_one_expert_is_found(tmp_path: Path, expert: int) -> None:
    source, root = write_flagged(tmp_path / "experts.gguf", flagged(experts=FEW), matrix_type="Q8_0"), tmp_path / "v"

    def damage(values: np.ndarray) -> None:
        swap_rows(values[expert * 64 :])

    with pytest.raises(ExportError, match=r"tensor blk\.0\.ffn_gate_exps\.weight.*differ by"):
        convert(source, DIGEST, root, Goal.BYTES, Damage(root, "layer.0.experts.gate_up.codes", 256, damage))
    assert list(root.iterdir()) == []
