"""A SentencePiece vocabulary, which puts a blank of its own before a text and spells bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as TokenizerFile

from hearthd.engine.frames import Grammar
from hearthd.engine.grammar import Grammars
from hearthd.engine.tokens import Tokenizer
from hearthd.engine.vocabulary import Vocabulary
from hearthd.store.variant import VariantInfo
from tests.variant_info import variant_info

BLANK = "\u2581"
LETTERS = [BLANK, *'{}":,nameg1', "na", "me", "name", BLANK + "name", BLANK + '"', '":', BLANK + BLANK]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["<unk>", "<s>", "</s>", *BYTES, *LETTERS]
MERGES = [("n", "a"), ("m", "e"), ("na", "me"), (BLANK, "name"), (BLANK, '"'), ('"', ":"), (BLANK, BLANK)]


def info(*eos_ids: int) -> VariantInfo:
    return variant_info(eos_ids=list(eos_ids))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    vocabulary = {piece: token for token, piece in enumerate(PIECES)}
    file = TokenizerFile(models.BPE(vocabulary, MERGES, byte_fallback=True, unk_token="<unk>"))
    file.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(Regex(" "), BLANK)])
    file.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    file.add_special_tokens([AddedToken(piece, special=True) for piece in PIECES[:3]])
    file.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path / "tokenizer.json", info(2))


@pytest.mark.parametrize("text", ['"name', "name", ' "name":', "\n  ", "{", "é"])
def test_text_within_an_answer_is_encoded_as_it_prints(tokenizer: Tokenizer, text: str) -> None:
    ids = Vocabulary(tokenizer, info(2)).encode(text)
    assert ids
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


def test_text_of_special_tokens_is_none_within_an_answer(tokenizer: Tokenizer) -> None:
    assert Vocabulary(tokenizer, info(2)).encode("</s>") == []


def test_end_tokens_print_nothing_and_are_spelt_out(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer, info(2, 999))
    assert (vocabulary.printed[2], vocabulary.shown[2]) == (b"", b"</s>")
    assert vocabulary.eos_ids.tolist() == [2]
    assert vocabulary.printed[299] == b""  # past the tokenizer's last token


def test_blanks_are_those_that_print_nothing_else(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer, info())
    texts = {vocabulary.printed[token] for token in vocabulary.blanks}
    assert texts == {b" ", b"  ", b"\t", b"\n", b"\r"}


@pytest.mark.parametrize("seed", range(5))
def test_answers_of_such_a_vocabulary_are_json(tokenizer: Tokenizer, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["name", "game", "e"]}, "é": {"const": 1}},
        "required": ["name", "é"],
        "additionalProperties": False,
    }
    constraint = Grammars(tokenizer, info(2)).compile(Grammar(json.dumps(schema)))
    chance, written = np.random.default_rng(seed), b""
    for _ in range(200):
        token = int(constraint.apply(chance.normal(size=300).astype(np.float32)).argmax())
        constraint.accept(token)
        written += tokenizer.token_bytes(token)
        if constraint.finished:
            break
    answer = json.loads(written)
    assert (answer["name"] in {"name", "game", "e"}, answer["é"]) == (True, 1)
