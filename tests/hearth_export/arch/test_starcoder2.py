from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import Activation, Norm
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import spec_of


def test_norms_have_means_and_there_is_no_gate(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "starcoder2", {"attention.layer_norm_epsilon": 1e-5})
    assert (spec.norm, spec.gated, spec.activation) == (Norm.LAYER, False, Activation.GELU_TANH)
    assert spec.norm_epsilon == pytest.approx(1e-5)
    assert spec.windows == ()


def test_epsilon_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"starcoder2\.attention\.layer_norm_epsilon is missing"):
        spec_of(tmp_path, "starcoder2")


def test_another_activation_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match='hidden_act is "relu"'):
        translate({"model_type": "starcoder2", "hidden_act": "relu"}, set())
