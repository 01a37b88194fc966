from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, DistilBertConfig, PretrainedConfig, RobertaConfig, XLMRobertaConfig

from hearth_export.precision import Goal
from tests.hearth_export.converted import converted, info_of
from tests.with_transformers.encoders import CONTEXT, SIZES, TinyEncoder, assert_vectors_alike

PAD = 1  # of RoBERTa; positions begin behind it
SHIFTED: dict[str, Any] = SIZES | {
    "pad_token_id": PAD,
    "max_position_embeddings": CONTEXT + PAD + 1,
    "type_vocab_size": 1,
}
DISTIL: dict[str, Any] = {
    "vocab_size": SIZES["vocab_size"],
    "dim": 64,
    "hidden_dim": 96,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": CONTEXT,
}


def tiny(root: Path, config: PretrainedConfig, pooling: str = "mean", first_position: int = 0) -> TinyEncoder:
    return TinyEncoder(root / "checkpoint", config, "bert", pooling, first_position=first_position)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_float_variant_gives_the_vectors_of_transformers(tmp_path: Path, kind: str, pooling: str) -> None:
    assert_vectors_alike(tiny(tmp_path, BertConfig(**SIZES), pooling), kind, tmp_path, Goal.FLOAT, 0.99999)


def test_int8_variant_gives_nearly_the_vectors_of_transformers(tmp_path: Path) -> None:
    assert_vectors_alike(tiny(tmp_path, BertConfig(**SIZES)), "safetensors", tmp_path, Goal.BYTES, 0.999)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])
def test_activation_is_the_one_that_config_json_names(tmp_path: Path, activation: str) -> None:
    encoder = tiny(tmp_path, BertConfig(**SIZES, hidden_act=activation))
    assert_vectors_alike(encoder, "safetensors", tmp_path, Goal.FLOAT, 0.99999)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
@pytest.mark.parametrize("config", [RobertaConfig, XLMRobertaConfig])
def test_positions_behind_the_padding_are_used(tmp_path: Path, config: type[PretrainedConfig], kind: str) -> None:
    encoder = tiny(tmp_path, config(**SHIFTED), "cls", PAD + 1)
    assert_vectors_alike(encoder, kind, tmp_path, Goal.FLOAT, 0.99999)


def test_distilbert_gives_the_vectors_of_transformers(tmp_path: Path) -> None:
    encoder = tiny(tmp_path, DistilBertConfig(**DISTIL))
    assert_vectors_alike(encoder, "safetensors", tmp_path, Goal.FLOAT, 0.99999)


def test_pooling_and_length_are_those_of_the_sentence_files(tmp_path: Path) -> None:
    encoder = tiny(tmp_path, BertConfig(**SIZES), "last")
    (encoder.directory / "sentence_bert_config.json").write_text('{"max_seq_length": 33}')
    info = info_of(converted(encoder.directory, tmp_path / "variants"))
    assert (info.pooling, info.context_length) == ("last", 33)
