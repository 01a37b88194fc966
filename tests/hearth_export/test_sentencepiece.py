from __future__ import annotations

import random

import pytest

from hearth_export.sentencepiece import BPE, UNIGRAM, Piece, read_sentencepiece
from tests.hearth_export.sentencepieces import field, model_file

PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁a", -1.5, 1), ("é", -2.0, 1), ("<0x41>", 0.0, 6)]


def test_pieces_keep_text_score_and_type() -> None:
    model = read_sentencepiece(model_file(PIECES))
    assert model.pieces == [Piece(*piece) for piece in PIECES]
    assert model.model_type == BPE


def test_what_the_file_does_not_say_is_as_the_format_defines() -> None:
    model = read_sentencepiece(field(1, field(1, b"x")))
    assert model.pieces == [Piece("x", 0.0, 1)]
    assert (model.model_type, model.unk_id, model.bos_id, model.eos_id, model.pad_id) == (UNIGRAM, 0, 1, 2, -1)
    assert (model.charsmap, model.add_dummy_prefix, model.remove_extra_whitespaces) == (b"", True, True)
    assert not model.treat_whitespace_as_suffix


def test_settings_of_trainer_and_normalizer_are_read() -> None:
    trainer = b"".join(field(number, value) for number, value in ((40, 3), (41, -1), (42, 1), (43, 0), (24, 1)))
    normalizer = field(1, b"nmt_nfkc") + field(2, b"map") + field(3, 0) + field(4, 0)
    model = read_sentencepiece(model_file(PIECES, trainer=trainer, normalizer=normalizer))
    assert (model.unk_id, model.bos_id, model.eos_id, model.pad_id) == (3, -1, 1, 0)
    assert (model.charsmap, model.add_dummy_prefix, model.remove_extra_whitespaces) == (b"map", False, False)
    assert model.treat_whitespace_as_suffix


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "no pieces"),
        (model_file([]), "no pieces"),
        (model_file(PIECES)[:20], "truncated"),
        (b"\x0a\xff\xff\xff\xff\x7f", "bytes at offset"),
        (b"\x0a" + b"\xff" * 12, "more than 64 bits"),
        (b"\x0a", "ends inside a number"),
        (b"\x0d\x00", "a number at offset"),
        (b"\x0f", "wire type 7"),
        (model_file([("x", 0.0, 9)]), "piece 0 has the type 9"),
        (field(1, field(1, b"\xff")), "piece 0 is not UTF-8"),
    ],
)
def test_damaged_file_is_refused(raw: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read_sentencepiece(raw)


def test_random_damage_is_refused_or_read() -> None:
    rng = random.Random(9)
    sound = model_file(PIECES)
    outcomes = set()
    for _ in range(500):
        raw = bytearray(sound)
        raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            outcomes.add(len(read_sentencepiece(bytes(raw[: rng.randrange(1, len(raw) + 1)])).pieces))
        except ValueError:
            outcomes.add(-1)
    assert -1 in outcomes
    assert len(outcomes) > 2
