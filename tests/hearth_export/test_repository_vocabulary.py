from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.tokenizer import TokenizerFiles, build
from tests.hearth_export.charsmaps import charsmap
from tests.hearth_export.repositories import repository
from tests.hearth_export.sentencepieces import UNIGRAM, WORD, field, model_file
from tests.hearth_export.tokenizing import encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

CORPUS = ["the quick brown fox jumps over the lazy dog and the other dog", "12 345 don't"]


def built(path: Path, content: dict[str, Any]) -> TokenizerFiles:
    return build(repository(path / "model", content))


# -- tokenizer.model ---------------------------------------------------------------------------------------------------

BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
WORDS = ["▁t", "he", "▁the", "▁", "t", "h", "e", "d", "o", "g", "▁d", "og", "▁dog"]
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
LLAMA = [*PIECES, *BYTES, *((text, -float(rank), 1) for rank, text in enumerate(WORDS))]
LLAMA_CONFIG = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
THE, DOG = 3 + 256 + WORDS.index("▁the"), 3 + 256 + WORDS.index("▁dog")


def test_bpe_of_a_model_file_alone_is_built(tmp_path: Path) -> None:
    found = built(tmp_path, {"tokenizer.model": model_file(LLAMA), "tokenizer_config.json": LLAMA_CONFIG})
    assert encoder(found, whole=True)("the dog\n") == [1, THE, DOG, 3 + 10]
    assert (found.add_bos, found.add_eos, found.eos_ids) == (True, False, [2])


def test_model_file_without_a_prefix_gives_none(tmp_path: Path) -> None:
    raw = model_file(LLAMA, normalizer=field(3, 0))
    assert encoder(built(tmp_path, {"tokenizer.model": raw}))(" the") == [THE]


def test_tokens_beside_a_model_file_are_parsed(tmp_path: Path) -> None:
    content = {"tokenizer.model": model_file(LLAMA), "added_tokens.json": {"<|im_end|>": len(LLAMA) + 1}}
    found = built(tmp_path, content)
    assert encoder(found)("<|im_end|>the") == [len(LLAMA) + 1, THE]
    assert found.num_tokens == len(LLAMA) + 2
    assert found.eos_ids == [2, len(LLAMA) + 1]


def test_unigram_of_a_model_file_alone_is_built(tmp_path: Path) -> None:
    normalizer = field(2, charsmap({"Ｔ": "t", "\t": " "}))
    pieces = [*PIECES, *((text, -1.0 - rank / 10, 1) for rank, text in enumerate(WORDS))]
    raw = model_file(pieces, model_type=UNIGRAM, normalizer=normalizer)
    found = built(tmp_path, {"tokenizer.model": raw, "tokenizer_config.json": {"eos_token": "</s>"}})
    assert encoder(found, whole=True)("Ｔhe \t dog") == [3 + WORDS.index("▁the"), 3 + WORDS.index("▁dog"), 2]


def test_model_file_of_xlm_roberta_has_its_ids_shifted(tmp_path: Path) -> None:
    pieces = [*PIECES, *((text, -1.0 - rank / 10, 1) for rank, text in enumerate(WORDS))]
    raw = model_file(pieces, model_type=UNIGRAM)
    config = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>", "add_bos_token": True}
    found = built(tmp_path, {"sentencepiece.bpe.model": raw, "tokenizer_config.json": config})
    assert encoder(found, whole=True)("the <mask>") == [0, 4 + WORDS.index("▁the"), 4 + len(WORDS), 2]


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        (b"nonsense", BadCheckpoint, "tokenizer.model: "),
        (model_file(LLAMA)[:-30], BadCheckpoint, "tokenizer.model: .*truncated"),
        (model_file(LLAMA, model_type=WORD), UnsupportedModel, "words or characters of SentencePiece"),
        (model_file(LLAMA, trainer=field(24, 1)), UnsupportedModel, "spaces at the end of words"),
        (model_file(LLAMA, normalizer=field(2, charsmap({"a": "b"}))), UnsupportedModel, "rewrites characters first"),
        (model_file([*PIECES, ("<s>", 0.0, 1)]), BadCheckpoint, "tokens: ids 1 and 3 are both '<s>'"),
        (model_file(PIECES, model_type=UNIGRAM, normalizer=field(2, b"\0\1")), BadCheckpoint, "precompiled_charsmap"),
    ],
)
def test_bad_model_file_is_refused_naming_it(tmp_path: Path, raw: bytes, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected) as error:
        built(tmp_path, {"tokenizer.model": raw})
    assert str(error.value).startswith(f"{tmp_path / 'model'}: ")


# -- vocab.json and merges.txt, vocab.txt ------------------------------------------------------------------------------


def trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level_files(tokenizer_class: str) -> dict[str, Any]:
    model = json.loads(trained().to_str())["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    config = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>"}
    return {"vocab.json": model["vocab"], "merges.txt": merges, "tokenizer_config.json": config}


def test_byte_level_vocabulary_of_two_files_is_built(tmp_path: Path) -> None:
    own, found = trained(), built(tmp_path, byte_level_files("GPT2Tokenizer"))
    ours = encoder(found)
    for text in TRICKY + fuzzed(200, seed=51, pieces=("<s>", "</s>", " the", " dog")):
        assert ours(text) == own.encode(text, add_special_tokens=False).ids
    assert (found.add_bos, found.add_eos) == (False, False)


def test_class_decides_how_words_are_split_and_framed(tmp_path: Path) -> None:
    assert encoder(built(tmp_path, byte_level_files("RobertaTokenizer")), whole=True)("")[:2] == [0, 1]
    assert len(encoder(built(tmp_path, byte_level_files("Qwen2TokenizerFast")))("345")) == 3


def word_files(**config: Any) -> dict[str, Any]:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "##s", "Dog", "café", "cafe"]
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return {"vocab.txt": "\n".join(words) + "\n", "tokenizer_config.json": {**named, **config}}


def test_word_pieces_of_a_list_are_built(tmp_path: Path) -> None:
    found = built(tmp_path, word_files())
    assert encoder(found, whole=True)("The Dogs [MASK] cat") == [2, 5, 6, 7, 4, 1, 3]
    assert (found.bos_id, found.eos_ids[0], found.num_tokens) == (2, 3, 11)


def test_word_pieces_whose_special_tokens_nobody_names_have_the_usual_ones(tmp_path: Path) -> None:
    files = {name: content for name, content in word_files().items() if name == "vocab.txt"}
    assert encoder(built(tmp_path, files), whole=True)("The Dogs [MASK] cat") == [2, 5, 6, 7, 4, 1, 3]


def test_config_decides_about_case_and_accents(tmp_path: Path) -> None:
    assert encoder(built(tmp_path, word_files(do_lower_case=False)))("Dog dog café") == [8, 6, 9]
    assert encoder(built(tmp_path, word_files()))("Dog dog café") == [6, 6, 10]
    assert encoder(built(tmp_path, word_files(strip_accents=False)))("Café") == [9]


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        ({}, UnsupportedModel, "there is no tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt"),
        ({"vocab.json": {"a": 0}}, UnsupportedModel, "there is no tokenizer.json"),
        ({**byte_level_files("NewTokenizer")}, UnsupportedModel, "'NewTokenizer' splits words .* is not known"),
        ({**byte_level_files("GPT2Tokenizer"), "vocab.json": "{"}, BadCheckpoint, "vocab.json: is damaged"),
        ({**byte_level_files("GPT2Tokenizer"), "vocab.json": {"a": "b"}}, BadCheckpoint, "vocab.json: is damaged"),
        ({**byte_level_files("GPT2Tokenizer"), "vocab.json": {"a": 1 << 40}}, BadCheckpoint, "has the id 1099511"),
        ({**byte_level_files("GPT2Tokenizer"), "merges.txt": "q nothing"}, BadCheckpoint, "merge 0, 'q nothing'"),
        ({**byte_level_files("GPT2Tokenizer"), "merges.txt": b"\xff"}, BadCheckpoint, "merges.txt: is not UTF-8"),
        ({"vocab.txt": b"\xff"}, BadCheckpoint, "vocab.txt: is not UTF-8"),
        ({**word_files(), "vocab.txt": "[UNK]\na\na\n"}, BadCheckpoint, "a line stands twice"),
        ({**word_files(do_lower_case="yes")}, BadCheckpoint, "do_lower_case is neither true nor false"),
    ],
)  # fmt: skip
def test_bad_vocabulary_files_are_refused_naming_them(
    tmp_path: Path, content: dict[str, Any], kind: type[Exception], expected: str
) -> None:
    with pytest.raises(kind, match=expected) as error:
        built(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path / 'model'}: ")
