from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import spec_of

CONFIG = {
    "model_type": "smollm3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 320,
}


def test_every_fourth_layer_does_not_turn(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "smollm3").layer_ropes == (0, 0, 0, -1, 0, 0)


def test_pattern_of_a_file_is_followed(tmp_path: Path) -> None:
    pattern = [False, True, True, True, False, True]
    assert spec_of(tmp_path, "smollm3", {"attention.rope_pattern": pattern}).layer_ropes == (-1, 0, 0, 0, -1, 0)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"no_rope_layers": [1, 0]}, "no_rope_layers is no list of 0 or 1 for each of 4 layers"),
        ({"no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers is no list of 0 or 1"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        ({"use_sliding_window": 1}, "use_sliding_window is 1"),
    ],
)
def test_odd_config_is_refused_by_one_sentence(changes: dict[str, Any], shown: str) -> None:
    with pytest.raises(BadCheckpoint) as error:
        translate({**CONFIG, **changes}, set())
    assert str(error.value).startswith("config.json: ")
    assert shown in str(error.value)
