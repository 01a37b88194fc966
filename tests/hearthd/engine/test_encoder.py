from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hearthd.engine.encoder import MIN_UNPADDED, EncoderSession, side_by_side, unpadded_apart
from hearthd.engine.providers.provider import load_provider
from hearthd.store.variant import read_variant
from tests.tiny_encoder import CONTEXT_LENGTH, write_tiny_encoder


def groups(lengths: list[int], num_batch: int) -> list[list[int]]:
    return list(side_by_side(lengths, num_batch))


def session(directory: Path, num_batch: int = 16) -> EncoderSession:
    info = read_variant(directory)
    assert info is not None
    return EncoderSession(directory, info, load_provider("cpu", 1), num_batch=num_batch)


def test_every_text_is_in_one_group() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 300).tolist()
    assert sorted(index for group in groups(lengths, 128) for index in group) == list(range(300))


def test_group_stays_within_its_tokens_padding_counted() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 300).tolist()
    assert all(max(lengths[i] for i in group) * len(group) <= 128 for group in groups(lengths, 128))


def test_texts_of_one_length_are_read_without_others_where_they_are_many_tokens() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 300).tolist()
    together = groups(lengths, 512)
    apart = list(unpadded_apart(together, lengths))
    assert sorted(index for group in apart for index in group) == list(range(300))
    found = [{lengths[index] for index in group} for group in apart]
    assert any(len(kinds) == 1 for kinds in found) and any(len(kinds) > 1 for kinds in found)
    for group, kinds in zip(apart, found, strict=True):
        assert len(kinds) == 1 or all(group.count(n) * n < MIN_UNPADDED for n in kinds)
        assert any(set(group) <= set(whole) for whole in together)


def test_little_of_a_group_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 300).tolist()
    for group in groups(lengths, 512):
        padded = max(lengths[i] for i in group) * len(group)
        assert sum(lengths[i] for i in group) >= 0.8 * padded


def test_text_longer_than_a_group_is_read_alone() -> None:
    assert groups([3, 100, 3], 16) == [[1], [0, 2]]


def test_no_texts_make_no_groups() -> None:
    assert groups([], 16) == []


def test_vectors_come_in_the_order_of_the_texts(tmp_path: Path) -> None:
    table = write_tiny_encoder(tmp_path)
    texts = [[1], [7, 9, 4, 1, 2, 3], [5, 6], list(range(40)), [8, 8, 8]]
    expected = np.stack([table[text].mean(0) for text in texts])
    np.testing.assert_allclose(session(tmp_path).vectors(texts), expected, rtol=1e-5, atol=1e-6)


def test_first_batch_comes_before_the_others_are_read(tmp_path: Path) -> None:
    write_tiny_encoder(tmp_path)
    steps = session(tmp_path).batches([[1, 2]] * 20)
    indices, vectors = next(steps)
    assert len(indices) == 8 and vectors.shape == (8, 8)


@pytest.mark.parametrize("length", [0, CONTEXT_LENGTH + 1])
def test_text_of_a_length_that_cannot_be_read_is_refused(tmp_path: Path, length: int) -> None:
    write_tiny_encoder(tmp_path)
    with pytest.raises(ValueError, match=f"a text of {length} tokens"):
        session(tmp_path).vectors([[1], [1] * length])
