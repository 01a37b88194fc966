from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import ModernBertConfig

from hearth_export.precision import Goal
from tests.with_transformers.encoders import SIZES, TinyEncoder, assert_vectors_alike

# transformers marks this model for torch.compile, whose import uses what torch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")

CONFIG: dict[str, Any] = SIZES | {
    "local_attention": 16,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "reference_compile": False,
}
KEYS = {
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": 3,
    "rope.freq_base": 160000.0,
    "rope.freq_base_swa": 10000.0,
}


def tiny(root: Path, pooling: str = "mean", **changes: Any) -> TinyEncoder:
    return TinyEncoder(root / "checkpoint", ModernBertConfig(**CONFIG | changes), "modern-bert", pooling, KEYS)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_float_variant_gives_the_vectors_of_transformers(tmp_path: Path, kind: str, pooling: str) -> None:
    assert_vectors_alike(tiny(tmp_path, pooling), kind, tmp_path, Goal.FLOAT, 0.99999)


def test_window_in_the_last_layer_is_kept_for_the_first_token(tmp_path: Path) -> None:
    encoder = tiny(tmp_path, "cls", num_hidden_layers=3)
    assert_vectors_alike(encoder, "safetensors", tmp_path, Goal.FLOAT, 0.99999)


def test_one_base_for_all_layers_is_understood(tmp_path: Path) -> None:
    encoder = tiny(tmp_path, local_rope_theta=None, global_attn_every_n_layers=2)
    assert_vectors_alike(encoder, "safetensors", tmp_path, Goal.FLOAT, 0.99999)


def test_biases_are_used(tmp_path: Path) -> None:
    encoder = tiny(tmp_path, norm_bias=True, attention_bias=True, mlp_bias=True)
    assert_vectors_alike(encoder, "safetensors", tmp_path, Goal.FLOAT, 0.99999)


def test_int8_variant_gives_nearly_the_vectors_of_transformers(tmp_path: Path) -> None:
    assert_vectors_alike(tiny(tmp_path), "safetensors", tmp_path, Goal.BYTES, 0.999)


@pytest.mark.parametrize("length", [62, 63, 78, 79, 94])
def test_text_that_is_cut_into_windows_gives_the_vector_of_transformers(tmp_path: Path, length: int) -> None:
    encoder = tiny(tmp_path, "cls", num_hidden_layers=3)
    assert_vectors_alike(
        encoder, "safetensors", tmp_path, Goal.FLOAT, 0.99999, lengths=(length, length - 2, length - 9)
    )
