from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.spec import Norm
from tests.hearth_export.converted import converted
from tests.hearth_export.flagged import architecture, assert_converts, flagged, write_flagged

__all__ = ["architecture"]
pytestmark = pytest.mark.usefixtures("architecture")

CASES: dict[str, dict[str, Any]] = {
    "before": {},
    "before and behind": {"post_norms": True},
    "behind alone": {"pre_norms": False, "post_norms": True},
    "under another name": {"ffn_norm": "post_attention_norm"},
    "behind, scaled": {"post_norms": True, "residual_scale": 0.4},
    "large epsilon": {"norm_epsilon": 0.5},
}


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("case", CASES)
def test_norms_lie_where_the_spec_says(tmp_path: Path, case: str, norm: Norm, biases: bool) -> None:
    assert_converts(tmp_path, flagged(norm=norm, **CASES[case]), biases=biases)


def test_missing_norm_is_named(tmp_path: Path) -> None:
    spec = flagged(post_norms=True)
    source = write_flagged(tmp_path / "odd.gguf", spec, changed={"blk.1.post_ffw_norm.weight": None})
    with pytest.raises(BadCheckpoint, match=r"odd\.gguf: tensor blk\.1\.post_ffw_norm\.weight is missing"):
        converted(source, tmp_path / "variants")
