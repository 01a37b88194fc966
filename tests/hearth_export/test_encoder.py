from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.precision import Goal
from hearthd.engine.encoder import EncoderSession
from hearthd.engine.providers.provider import load_provider
from tests.hearth_export.converted import converted, info_of
from tests.tiny_bert import CONTEXT, HIDDEN, WORDS, Floats, random_encoder, reference, write_tiny_bert

ARCHITECTURES = ("bert", "nomic-bert", "modern-bert")
LENGTHS = (1, 2, 7, 40, 7, 64, CONTEXT)


def texts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, len(WORDS), length).tolist() for length in lengths]


def vectors(directory: Path, ids: Sequence[Sequence[int]], num_batch: int = 512) -> Floats:
    info = info_of(directory)
    session = EncoderSession(directory, info, load_provider(info.provider, 2), num_batch=num_batch)
    return session.vectors(ids)


def cosines(one: Floats, other: Floats) -> Floats:
    products: Floats = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return products


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float_variant_gives_the_vectors_of_numpy(tmp_path: Path, architecture: str, pooling: str) -> None:
    source = write_tiny_bert(tmp_path / "m.gguf", architecture, pooling=pooling)
    directory = converted(source, tmp_path / "variants", Goal.FLOAT)
    expected = reference(architecture, random_encoder(architecture), pooling, texts())
    np.testing.assert_allclose(vectors(directory, texts()), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_variant_gives_nearly_the_vectors_of_numpy(tmp_path: Path, architecture: str) -> None:
    directory = converted(write_tiny_bert(tmp_path / "m.gguf", architecture), tmp_path / "variants")
    expected = reference(architecture, random_encoder(architecture), "mean", texts())
    assert cosines(vectors(directory, texts()), expected).min() >= 0.999
    assert info_of(directory).name == "cpu-int8"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_alone_gives_the_vector_that_it_gives_among_others(tmp_path: Path, architecture: str) -> None:
    directory = converted(write_tiny_bert(tmp_path / "m.gguf", architecture), tmp_path / "variants")
    together = vectors(directory, texts(), 4 * CONTEXT)
    alone = np.concatenate([vectors(directory, [text]) for text in texts()])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_variant_says_that_it_is_an_encoder(tmp_path: Path) -> None:
    info = info_of(converted(write_tiny_bert(tmp_path / "m.gguf", pooling="cls"), tmp_path / "variants"))
    assert (info.kind, info.pooling, info.hidden_size, info.context_length) == ("encoder", "cls", HIDDEN, CONTEXT)
    assert info.ropes == [] and info.kv_graphs == {}


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_encoder("bert")
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(BadCheckpoint, match=r"blk\.1\.ffn_up\.weight is missing"):
        converted(write_tiny_bert(tmp_path / "m.gguf", tensors=tensors), tmp_path / "variants")


def test_too_few_positions_are_refused_naming_the_tensor(tmp_path: Path) -> None:
    tensors = random_encoder("bert")
    tensors["position_embd.weight"] = tensors["position_embd.weight"][:50]
    with pytest.raises(BadCheckpoint, match=r"position_embd\.weight has the shape \(50, 64\)"):
        converted(write_tiny_bert(tmp_path / "m.gguf", tensors=tensors), tmp_path / "variants")


def test_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    tensors = random_encoder("bert") | {"cls.weight": np.ones((HIDDEN, HIDDEN), np.float32)}
    with pytest.raises(UnsupportedModel, match=r"cls\.weight has no place"):
        converted(write_tiny_bert(tmp_path / "m.gguf", tensors=tensors), tmp_path / "variants")


def test_damaged_position_is_named(tmp_path: Path) -> None:
    tensors = random_encoder("bert")
    tensors["position_embd.weight"][3, 5] = np.nan
    with pytest.raises(BadCheckpoint, match=r"position_embd\.weight holds a value that is not finite"):
        converted(write_tiny_bert(tmp_path / "m.gguf", tensors=tensors), tmp_path / "variants")


def test_unknown_activation_is_named(tmp_path: Path) -> None:
    source = write_tiny_bert(tmp_path / "m.gguf", extra={"bert.hidden_activation": "swish9"})
    with pytest.raises(UnsupportedModel, match=r"bert\.hidden_activation is 'swish9'"):
        converted(source, tmp_path / "variants")


def test_heads_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    source = write_tiny_bert(tmp_path / "m.gguf", extra={"bert.attention.head_count": 5})
    with pytest.raises(BadCheckpoint, match=r"bert\.attention\.head_count is 5"):
        converted(source, tmp_path / "variants")
