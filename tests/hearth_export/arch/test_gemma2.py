from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.spec import Activation
from tests.hearth_export.decoder_header import spec_of
from tests.hearth_export.gguf_writer import Meta


def test_what_old_files_leave_out_is_as_llama_cpp_takes_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "gemma2")
    assert spec.windows == (4096, 0, 4096, 0, 4096, 0)
    assert (spec.attention_softcap, spec.logit_softcap) == (50, 30)
    assert (spec.embedding_scale, spec.attention_scale) == (8, 0)
    assert spec.post_norms
    assert spec.tied_head
    assert spec.activation is Activation.GELU_TANH


def test_27b_scales_attention_by_its_width_a_head(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "gemma2", {"block_count": 46, "attention.key_length": 32, "attention.value_length": 32})
    assert spec.attention_scale == pytest.approx(1 / 4)  # 64 / 4 heads, though each has 32 values


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ({"attn_logit_softcapping": -1.0}, "gemma2.attn_logit_softcapping is -1.0"),
        ({"final_logit_softcapping": float("nan")}, "gemma2.final_logit_softcapping is nan"),
        ({"attention.scale": float("inf")}, "gemma2.attention.scale is inf"),
        ({"attention.sliding_window": "wide"}, "gemma2.attention.sliding_window"),
        ({"attention.sliding_window_pattern": [True, False]}, "an array of 2 bool"),
    ],
)
def test_absurd_value_is_refused_by_name(tmp_path: Path, keys: dict[str, Meta], shown: str) -> None:
    with pytest.raises(BadCheckpoint) as error:
        spec_of(tmp_path, "gemma2", keys)
    assert str(tmp_path / "header.gguf") in str(error.value)
    assert shown in str(error.value)
