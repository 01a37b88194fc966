from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.spec import Pooling
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import spec_of
from tests.hearth_export.safetensors_writer import LLAMA, llama_tensors

CONFIG: dict[str, Any] = {**LLAMA, "model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}
PATTERN = "qwen2.attention.sliding_window_pattern"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("value", "pooling"), [(0, None), (1, Pooling.MEAN), (2, Pooling.CLS), (3, Pooling.LAST)])
def test_file_says_how_texts_become_vectors(
    tmp_path: Path, architecture: str, value: int, pooling: Pooling | None
) -> None:
    assert spec_of(tmp_path, architecture, {"pooling_type": value}).pooling is pooling


def test_pooling_that_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"qwen3\.pooling_type is 4; 0 to 3 are known"):
        spec_of(tmp_path, "qwen3", {"pooling_type": 4})


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"max_window_layers": 1}, [False, True]),
        ({"max_window_layers": 0}, [True, True]),
        ({}, [True, True]),
        ({"layer_types": ["sliding_attention", "full_attention"], "max_window_layers": 2}, [True, False]),
        ({"max_window_layers": 2}, None),
        ({"use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
    ],
)
def test_config_says_which_layers_have_a_window(changes: dict[str, Any], pattern: list[bool] | None) -> None:
    assert translate({**CONFIG, **changes}, set(llama_tensors())).metadata.get(PATTERN) == pattern


@pytest.mark.parametrize("value", ["x", 1.5, -1, [], True])
def test_count_of_layers_without_a_window_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json: max_window_layers is"):
        translate({**CONFIG, "max_window_layers": value}, set(llama_tensors()))


def test_activation_of_another_kind_is_refused() -> None:
    with pytest.raises(ExportError, match='hidden_act is "gelu"; only "silu" can be converted'):
        translate({**CONFIG, "hidden_act": "gelu"}, set(llama_tensors()))
