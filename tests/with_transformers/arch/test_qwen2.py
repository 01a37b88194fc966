from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import Qwen2Config

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    write_yarn_keys,
)

SOURCES = ("safetensors", "gguf")
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "yarn": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "max_position_embeddings": 128,
    },
}


def family(**changes: Any) -> Family:
    config = Qwen2Config(**{**SIZES, **changes})
    return Family(config, gguf.MODEL_ARCH.QWEN2, write_keys=lambda writer: write_yarn_keys(writer, config))


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("qwen2"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.99)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_windows_begin_where_the_config_says(tmp_path: Path, first: int) -> None:
    tiny = Tiny(family(use_sliding_window=True, sliding_window=13, max_window_layers=first), tmp_path)
    assert_float_variant(tiny, "safetensors")


def test_windows_of_older_configs_are_known(tmp_path: Path) -> None:
    """They say no type a layer."""
    tiny = Tiny(family(use_sliding_window=True, sliding_window=13, max_window_layers=1), tmp_path)
    config = json.loads((tiny.directory / "config.json").read_text())
    del config["layer_types"]
    (tiny.directory / "config.json").write_text(json.dumps(config))
    assert_float_variant(tiny, "safetensors")
