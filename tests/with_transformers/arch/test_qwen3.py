from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModel, Qwen3Config

from hearth_export.precision import Goal
from tests.hearth_export.converted import converted, info_of
from tests.with_transformers.harness import (
    LEAST_COSINE,
    SIZES,
    Family,
    Tiny,
    assert_float_variant,
    assert_llama_cpp_agrees,
    assert_quantized_variant,
    cosines,
    hidden_states,
    text,
)

SOURCES = ("safetensors", "gguf")
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
}


def family(**changes: Any) -> Family:
    return Family(Qwen3Config(**{**SIZES, "head_dim": 32, **changes}), gguf.MODEL_ARCH.QWEN3)


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(family(**CONFIGS[request.param]), tmp_path_factory.mktemp("qwen3"))


@pytest.mark.parametrize("source", SOURCES)
def test_float_variant_gives_the_logits_of_transformers(tiny: Tiny, source: str) -> None:
    assert_float_variant(tiny, source)


def test_llama_cpp_reads_the_same_file_alike(tiny: Tiny) -> None:
    assert_llama_cpp_agrees(tiny)


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_variant_stays_close(source: str, tmp_path: Path) -> None:
    assert_quantized_variant(Tiny(family(), tmp_path), source, 0.99)


def test_biases_are_seen(tmp_path: Path) -> None:
    assert_float_variant(Tiny(family(attention_bias=True), tmp_path), "safetensors")  # llama.cpp has none


def test_model_that_makes_embeddings_says_how(tmp_path: Path) -> None:
    """As Qwen3-Embedding is published: without its head, and with the files of sentence-transformers."""
    tiny = Tiny(replace(family(), model=AutoModel), tmp_path)
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ]
    (tiny.directory / "modules.json").write_text(json.dumps(modules))
    (tiny.directory / "1_Pooling").mkdir()
    (tiny.directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    directory = converted(tiny.directory, tmp_path / "variants", Goal.FLOAT)
    assert info_of(directory).pooling == "last"
    ids = text()
    with torch.no_grad():
        expected = tiny.model(torch.tensor([ids])).last_hidden_state[0].numpy()
    found = cosines(hidden_states(directory, ids), expected)
    assert found.min() >= LEAST_COSINE
