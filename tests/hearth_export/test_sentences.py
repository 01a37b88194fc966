from __future__ import annotations

import json
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.sentences import MODULES, sentence_metadata

PREFIX = "sentence_transformers.models"


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"{PREFIX}.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def said(pooling: dict[str, Any] | None, *kinds: str, **files: Any) -> dict[str, int]:
    stored = {MODULES: modules(*(kinds or ("Transformer", "Pooling", "Normalize"))), "1_Pooling/config.json": pooling}
    stored |= {name.replace("__", "."): content for name, content in files.items()}

    def read_file(name: str) -> bytes | None:
        return None if stored.get(name) is None else json.dumps(stored[name]).encode()

    return sentence_metadata("bert", read_file)


def test_checkpoint_of_another_kind_says_nothing() -> None:
    assert sentence_metadata("bert", lambda name: None) == {}


@pytest.mark.parametrize(
    ("flag", "number"), [("pooling_mode_mean_tokens", 1), ("pooling_mode_cls_token", 2), ("pooling_mode_lasttoken", 3)]
)
def test_pooling_is_told_in_the_number_of_gguf(flag: str, number: int) -> None:
    flags = dict.fromkeys(("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"), False)
    assert said(flags | {flag: True}) == {"bert.pooling_type": number}


def test_mode_given_by_its_name_is_understood() -> None:
    assert said({"pooling_mode": "cls"}) == {"bert.pooling_type": 2}


def test_length_where_texts_are_cut_is_told() -> None:
    found = said({"pooling_mode": "mean"}, sentence_bert_config__json={"max_seq_length": 256})
    assert found["bert.context_length"] == 256


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_that_cannot_be_converted_is_refused_naming_the_file(pooling: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match=r"1_Pooling/config\.json: pools by"):
        said(pooling)


def test_module_that_changes_vectors_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="a module of the kind Dense"):
        said({"pooling_mode": "mean"}, "Transformer", "Pooling", "Dense")


def test_missing_file_of_a_module_is_named() -> None:
    with pytest.raises(BadCheckpoint, match=r"1_Pooling/config\.json: is missing"):
        said(None)


@pytest.mark.parametrize("path", ["../../etc", "/etc", "a/b"])
def test_path_out_of_the_checkpoint_is_refused(path: str) -> None:
    listed = json.dumps([{"type": f"{PREFIX}.Pooling", "path": path}]).encode()
    with pytest.raises(BadCheckpoint, match="no directory's name"):
        sentence_metadata("bert", lambda name: listed if name == MODULES else b"{}")


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1]", b"[{}]", b"\xff"])
def test_modules_that_cannot_be_understood_are_refused_naming_the_file(content: bytes) -> None:
    with pytest.raises(BadCheckpoint, match=r"modules\.json"):
        sentence_metadata("bert", lambda name: content)
