from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import Starcoder2Config

from tests.with_transformers.harness import (
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
)

CONFIGS: dict[str, dict[str, Any]] = {"tied": {}, "untied": {"tie_word_embeddings": False}}


def family(**changes: Any) -> Family:
    config = Starcoder2Config(**{**SIZES, **changes})

    def write_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_layer_norm_eps(config.norm_epsilon)

    return Family(config, gguf.MODEL_ARCH.STARCODER2, write_keys)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("starcoder2"))


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize(
    "changes", [{"sliding_window": 9}, {"use_bias": False}], ids=["window", "biases of norms alone"]
)
def test_what_config_json_alone_can_say_is_followed(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(**changes), tmp_path), "safetensors")


@pytest.mark.parametrize("source", ["safetensors", "gguf"])
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.999)
