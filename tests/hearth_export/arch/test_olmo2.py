from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.spec import QKNorm
from tests.hearth_export.decoder_header import spec_of


@pytest.mark.parametrize("architecture", ["olmo2", "olmo3"])
def test_norms_come_after_and_over_all_heads(tmp_path: Path, architecture: str) -> None:
    spec = spec_of(tmp_path, architecture)
    assert (spec.pre_norms, spec.post_norms, spec.qk_norm) == (False, True, QKNorm.WHOLE)
    assert (spec.windows, spec.layer_ropes, len(spec.ropes)) == ((), (), 1)


def test_layers_with_a_window_turn_without_scaling(tmp_path: Path) -> None:
    keys = {"attention.sliding_window": 64, "rope.freq_base": 100.0}
    spec = spec_of(tmp_path, "olmo2", {**keys, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    assert spec.windows == (64, 64, 64, 0, 64, 64)
    assert spec.layer_ropes == (1, 1, 1, 0, 1, 1)
    scaled, plain = spec.ropes
    assert plain.inv_freq[4] == pytest.approx(0.1)
    assert scaled.inv_freq[4] == pytest.approx(0.1 / 4)
