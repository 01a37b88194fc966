"""Checkpoints of encoders that transformers 5 has saved, and the vectors that it gives (their make.py tells how)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_export.errors import ExportError
from hearth_export.precision import Goal
from hearthd.engine.encoder import EncoderSession
from hearthd.engine.providers.provider import load_provider
from tests.hearth_export.converted import converted, info_of

SAVED = Path(__file__).parents[2] / "data" / "saved_by_transformers_5"
FIRST_WORDS = {
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
}


def copied(name: str, root: Path, **changes: Any) -> Path:
    """A checkpoint whose config.json says something else; None takes a word away."""
    directory = shutil.copytree(SAVED / name, root / "checkpoint")
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps({key: config[key] for key in config if config[key] is not None}))
    return directory


def least_cosine(name: str, directory: Path, root: Path, goal: Goal) -> float:
    """With the means of the states that transformers gives."""
    means = json.loads((SAVED / "means.json").read_text())
    made = converted(directory, root / "variants", goal)
    found = EncoderSession(made, info_of(made), load_provider("cpu", 1)).vectors(means["texts"])
    expected = np.array(means[name])
    sizes = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((found * expected).sum(-1) / sizes).min())


@pytest.mark.parametrize("name", ["nomic_bert", "modernbert"])
@pytest.mark.parametrize(("goal", "least"), [(Goal.FLOAT, 0.99999), (Goal.BYTES, 0.999)])
def test_checkpoint_gives_the_vectors_of_transformers(name: str, goal: Goal, least: float, tmp_path: Path) -> None:
    assert least_cosine(name, SAVED / name, tmp_path, goal) >= least


def test_nomic_bert_in_the_words_of_its_authors_gives_the_same(tmp_path: Path) -> None:
    config = json.loads((SAVED / "nomic_bert" / "config.json").read_text())
    words = {ours: config[theirs] for ours, theirs in FIRST_WORDS.items()}
    words |= {"rotary_emb_base": 5000, "rotary_emb_fraction": 1.0, "activation_function": "swiglu", "prenorm": False}
    dropped = dict.fromkeys((*FIRST_WORDS.values(), "rope_parameters", "hidden_act"))
    directory = copied("nomic_bert", tmp_path, **dropped, **words)
    assert least_cosine("nomic_bert", directory, tmp_path, Goal.FLOAT) >= 0.99999


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "nomic_bert",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_parameters is of type 'yarn'",
        ),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types is no list of a type for each of 4 layers"),
        ("modernbert", {"layer_types": ["linear_attention"] * 4}, "layer_types names 'linear_attention'"),
    ],
)
def test_what_it_does_not_know_is_named(name: str, changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=sentence):
        converted(copied(name, tmp_path, **changes), tmp_path / "variants")
