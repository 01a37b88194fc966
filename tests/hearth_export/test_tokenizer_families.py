from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from hearth_export.errors import BadCheckpoint
from tests.hearth_export.charsmaps import charsmap
from tests.hearth_export.gguf_writer import Meta, write_gguf, write_tiny_llama
from tests.hearth_export.llama_cpp import tokenizer_of
from tests.hearth_export.tokenizing import built, differences, encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

CORPUS = (
    "The quick brown fox jumps over the lazy dog, and then the other dog answers: this is nothing new under the sun. "
    "Those who think that they know everything annoy those of us who do. 12 34 1234 2024 ... ---- ==== "
    "naïve café über straße déjà vu; 日本 日本語 中文 привет мир. def f(x): return x if x == 1: pass γειά σου शान्ति"
)


# -- WordPiece ---------------------------------------------------------------------------------------------------------

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces(lowercase: bool) -> list[str]:
    """Trained on CORPUS, as Hugging Face spells them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator([CORPUS] * 3, trainer)
    return [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]


def bert(lowercase: bool = True, **changes: Meta) -> dict[str, Meta]:
    """The same as GGUF spells it: what begins a word is marked."""
    tokens = [
        text if text in SPECIALS else text[2:] if text.startswith("##") else f"▁{text}"
        for text in word_pieces(lowercase)
    ]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def num_tokens(metadata: dict[str, Meta]) -> int:
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    return len(tokens)


def approximated(text: str) -> bool:
    """Whether llama.cpp's WordPiece departs from BERT's own: it decomposes in one step and without Hangul, drops marks
    that take room, private and unassigned characters, and knows no longest word. Marks and punctuation that Unicode has
    had for not so long are not known to the `tokenizers` library."""
    categories = {unicodedata.category(char) for char in text}
    decomposed = any(len(unicodedata.normalize("NFD", char)) > 2 or "가" <= char <= "힣" for char in text)
    long = any(len(word) > 100 for word in text.split())
    recent = any(unicodedata.ucd_3_2_0.category(char) == "Cn" and not char.isalnum() for char in text)
    return (
        recent or bool(categories & {"Mc", "Me", "Co", "Cn", "Cs", "Cf", "Sk"}) or decomposed or long or "\x85" in text
    )


def plain_texts(count: int, seed: int) -> list[str]:
    words = CORPUS.split(" ")
    pieces = [*words, *(f" {word}" for word in words), *SPECIALS, "[CLS", "##s", "Café", "ÜBER", "\n", "\t", "\u200b"]
    return [text for text in TRICKY + fuzzed(count, seed, pieces) if not approximated(text)]


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_have_the_ids_of_llama_cpp(tmp_path: Path, lowercase: bool) -> None:
    metadata = bert(lowercase, **{"normalizer.lowercase": lowercase})
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, num_tokens(metadata))
    texts = plain_texts(900, seed=21)
    assert len(texts) > 200
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, texts) == {}


def test_word_pieces_are_framed_as_llama_cpp_does(tmp_path: Path) -> None:
    metadata = bert()
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, num_tokens(metadata))
    files = built(path)
    with tokenizer_of(path) as tokenize:
        for text in ("", "the dog", "[MASK] fox", "[SEP]"):
            assert encoder(files, whole=True)(text) == tokenize(text, add_special=True)
    assert (files.bos_id, files.eos_ids[0], files.add_bos, files.add_eos) == (2, 3, True, True)
    assert (files.bos_token, files.eos_token) == ("[CLS]", "[SEP]")


def test_word_pieces_are_framed_whatever_the_file_says(tmp_path: Path) -> None:
    files = built(write_gguf(tmp_path / "a.gguf", bert(add_bos_token=False, add_eos_token=False)))
    assert encoder(files, whole=True)("")[:1] == [2]
    assert encoder(files, whole=True)("")[-1:] == [3]


def test_word_pieces_are_lowercase_without_accents_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    silent = encoder(built(write_gguf(tmp_path / "a.gguf", bert())))
    assert silent("Café") == silent("cafe")
    accents = {"normalizer.lowercase": True, "normalizer.strip_accents": False}
    kept = encoder(built(write_gguf(tmp_path / "b.gguf", bert(**accents))))
    assert kept("Café") == kept("café") != kept("cafe")


def test_word_of_more_than_a_hundred_letters_is_unknown_as_in_bert_itself(tmp_path: Path) -> None:
    encode = encoder(built(write_gguf(tmp_path / "a.gguf", bert())))
    assert encode("d" * 101) == [1]
    assert 1 not in encode("d" * 100)


def test_tokens_that_become_the_same_word_piece_are_refused(tmp_path: Path) -> None:
    metadata = bert()
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    tokens[-2:] = ["▁[MASK]", "[x]"]
    with pytest.raises(BadCheckpoint, match=r"tokens: ids 4 and \d+ are both '\[MASK\]' as word pieces"):
        built(write_gguf(tmp_path / "a.gguf", metadata))


def test_word_pieces_without_an_unknown_token_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="unknown_token_id: there is none"):
        built(write_gguf(tmp_path / "a.gguf", bert(unknown_token_id=(1 << 32) - 1)))


# -- unigram -----------------------------------------------------------------------------------------------------------

REPLACEMENTS = {"\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "Ａ": "A", "ﬁ": "fi", "①": "1", "½": "1/2", "é": "é"}


def unigram(**changes: Meta) -> dict[str, Meta]:
    """A vocabulary trained on CORPUS, in the order of XLM-RoBERTa."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=250, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator([CORPUS] * 3, trainer)
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    scores = {str(text): -1.0 - index / 10 for index, (text, _) in enumerate(pieces)}
    del scores["<unk>"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *scores, "[PAD99]", "<mask>", "<user made>"]
    count = len(scores)
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 4 + list(scores.values()) + [-1000.0, 0.0, -1000.0],
        "tokenizer.ggml.token_type": [3, 3, 3, 2] + [1] * count + [5, 3, 4],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def unigram_texts(seed: int) -> list[str]:
    words = CORPUS.split(" ")
    pieces = [*words, *(f" {word}" for word in words), "<s>", "</s>", "<mask>", "<user made>", "<unk>", "ﬁ", "½"]
    texts = [text for text in TRICKY + fuzzed(300, seed, pieces) if "\x00" not in text]
    assert len(texts) > 300
    return texts


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_unigram_gives_the_ids_of_llama_cpp(tmp_path: Path, prefix: bool, merged: bool) -> None:
    metadata = unigram(add_space_prefix=prefix, remove_extra_whitespaces=merged)
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, num_tokens(metadata))
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, unigram_texts(22)) == {}


def test_unigram_with_a_character_map_gives_the_ids_of_llama_cpp(tmp_path: Path) -> None:
    metadata = unigram(precompiled_charsmap=np.frombuffer(charsmap(REPLACEMENTS), np.uint8))
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, num_tokens(metadata))
    texts = [text for text in unigram_texts(23) if not any(unicodedata.category(char) in JOINED for char in text)]
    assert len(texts) > 200
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, texts) == {}


# the library looks up whole graphemes where llama.cpp looks up the longest run of bytes
JOINED = ("Mn", "Mc", "Me", "Cf", "Sk")


def test_unigram_is_framed_as_llama_cpp_does(tmp_path: Path) -> None:
    metadata = unigram()
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, num_tokens(metadata))
    files = built(path)
    with tokenizer_of(path) as tokenize:
        for text in ("", "the dog", "<mask> fox"):
            assert encoder(files, whole=True)(text) == tokenize(text, add_special=True)
    assert (files.bos_id, files.eos_ids, files.bos_token) == (0, [2], "<s>")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precompiled_charsmap": [1, 2, 3]}, "precompiled_charsmap: an array of int32 where bytes are expected"),
        ({"precompiled_charsmap": np.zeros(3, np.uint8)}, "precompiled_charsmap: a map of 3 bytes"),
        ({"precompiled_charsmap": np.frombuffer(charsmap({"a": "b"})[:-4], np.uint8)}, "truncated or damaged"),
        ({"scores": [0.0]}, "scores: 1 entries for"),
        ({"unknown_token_id": (1 << 32) - 1}, "unknown_token_id: there is none"),
        ({"unknown_token_id": 1 << 30}, "unknown_token_id: 1073741824 is not one of"),
    ],
)
def test_bad_unigram_vocabulary_is_refused_naming_the_field(
    tmp_path: Path, changes: dict[str, Meta], expected: str
) -> None:
    path = write_gguf(tmp_path / "bad.gguf", unigram(**changes))
    with pytest.raises(BadCheckpoint, match=expected) as error:
        built(path)
    assert str(error.value).startswith(f"{path}: tokenizer.ggml.")


def test_unigram_vocabulary_without_scores_is_refused(tmp_path: Path) -> None:
    metadata = {key: value for key, value in unigram().items() if key != "tokenizer.ggml.scores"}
    with pytest.raises(BadCheckpoint, match="scores: missing"):
        built(write_gguf(tmp_path / "bad.gguf", metadata))
