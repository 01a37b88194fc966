from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.readers.gguf import open_gguf
from hearth_export.readers.values import MetaArray
from hearth_export.tokenizer import TokenizerFiles
from hearth_export.tokenizer_families import byte_chars
from tests.hearth_export.gguf_writer import Meta, write_gguf, write_tiny_llama
from tests.hearth_export.llama_cpp import Tokenize, tokenizer_of
from tests.hearth_export.tokenizing import built, differences, encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

# -- the real vocabulary -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> TokenizerFiles:
    return built(smollm2_gguf)


@pytest.fixture(scope="module")
def llama_cpp_smollm2(smollm2_gguf: Path) -> Iterator[Tokenize]:
    with tokenizer_of(smollm2_gguf) as tokenize:
        yield tokenize


def test_real_vocabulary_gives_the_ids_of_llama_cpp(smollm2: TokenizerFiles, llama_cpp_smollm2: Tokenize) -> None:
    texts = TRICKY + fuzzed(300, seed=11, pieces=("<|im_end|>", "<|im_start|>", "\x04"))
    assert differences(encoder(smollm2), llama_cpp_smollm2, texts) == {}


def test_real_vocabulary_decodes_what_it_encoded(smollm2: TokenizerFiles) -> None:
    tokenizer = Tokenizer.from_buffer(smollm2.json)
    known = set(tokenizer.get_vocab())
    dropped = {byte for byte, char in enumerate(byte_chars()) if char not in known}
    texts = [text for text in TRICKY + fuzzed(300, seed=12) if not dropped & set(text.encode("utf-8", "replace"))]
    assert len(texts) > 200
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_real_vocabulary_names_its_special_tokens(smollm2: TokenizerFiles) -> None:
    assert (smollm2.num_tokens, smollm2.bos_id, smollm2.bos_token) == (49152, 1, "<|im_start|>")
    assert smollm2.eos_token == "<|im_end|>"
    assert {0, 2} <= set(smollm2.eos_ids)
    assert 1 not in smollm2.eos_ids
    assert not smollm2.add_bos
    assert not smollm2.add_eos
    assert smollm2.chat_template is not None
    assert "<|im_start|>" in smollm2.chat_template


# -- byte-level BPE ----------------------------------------------------------------------------------------------------


def small(**changes: Meta) -> dict[str, Meta]:
    """26 letters, two merges, four special tokens."""
    tokens = [*(chr(code) for code in range(0x61, 0x7B)), "ab", "abc", "<|im_end|>", "<bos>", "</s>", "<|end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.token_type": [1] * 28 + [3, 3, 1, 4],
        "tokenizer.ggml.bos_token_id": 29,
        "tokenizer.ggml.eos_token_id": 28,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def small_built(tmp_path: Path, **changes: Meta) -> TokenizerFiles:
    return built(write_gguf(tmp_path / "small.gguf", small(**changes)))


def test_letters_without_a_byte_token_are_dropped_and_do_not_let_their_neighbours_merge(tmp_path: Path) -> None:
    encode = encoder(small_built(tmp_path))
    assert encode("abc") == [27]
    assert encode("aébc") == [0, 1, 2]


def test_end_tokens_are_found_by_name_only_where_they_are_special(tmp_path: Path) -> None:
    assert small_built(tmp_path).eos_ids == [28, 31]
    types = [1] * 28 + [3, 3, 3, 4]
    assert small_built(tmp_path, token_type=types).eos_ids == [28, 30, 31]


def test_end_token_that_a_converter_left_normal_is_a_special_token(tmp_path: Path) -> None:
    files = small_built(tmp_path, token_type=[1] * 32, eos_token_id=0)
    assert files.eos_ids == [0, 28, 31]
    assert encoder(files)("a<|im_end|>b") == [0, 28, 1]


def test_ids_of_end_of_turn_and_end_of_message_end_a_generation(tmp_path: Path) -> None:
    assert small_built(tmp_path, eot_token_id=3, eom_token_id=4).eos_ids == [3, 4, 28, 31]


def test_bos_is_no_end_token_unless_it_is_eos(tmp_path: Path) -> None:
    assert small_built(tmp_path, bos_token_id=31).eos_ids == [28]
    assert small_built(tmp_path, bos_token_id=28).eos_ids == [28, 31]


def test_end_of_message_of_harmony_vocabularies_does_not_end_the_turn(tmp_path: Path) -> None:
    tokens = ["a", "b", "ab", "<|return|>", "<|call|>", "<|end|>"]
    files = small_built(
        tmp_path, tokens=tokens, merges=["a b"], token_type=[1, 1, 1, 3, 3, 3], bos_token_id=0, eos_token_id=3
    )
    assert files.eos_ids == [3, 4]


def test_user_defined_token_is_parsed_but_not_skipped_as_special(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_buffer(small_built(tmp_path).json)
    ids = tokenizer.encode("a<|end|>b", add_special_tokens=False).ids
    assert ids == [0, 31, 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<|end|>b"


def test_beginning_and_end_are_added_only_when_asked(tmp_path: Path) -> None:
    files = small_built(tmp_path, add_bos_token=True, add_eos_token=True)
    tokenizer = Tokenizer.from_buffer(files.json)
    assert (files.add_bos, files.add_eos) == (True, True)
    assert tokenizer.encode("abc", add_special_tokens=False).ids == [27]
    assert tokenizer.encode("abc", add_special_tokens=True).ids == [29, 27, 28]


def test_pre_tokenizer_says_whether_bos_is_added_where_the_file_does_not(tmp_path: Path) -> None:
    assert small_built(tmp_path, pre="llama-bpe").add_bos
    assert not small_built(tmp_path, pre="llama-bpe", add_bos_token=False).add_bos
    assert not small_built(tmp_path, pre="qwen2").add_bos


def test_word_that_is_a_token_needs_no_merges_where_the_pre_tokenizer_says_so(tmp_path: Path) -> None:
    assert encoder(small_built(tmp_path, pre="llama-bpe", merges=["a b"]))("abc") == [27]
    assert encoder(small_built(tmp_path, pre="qwen2", merges=["a b"]))("abc") == [26, 2]


def test_special_tokens_of_phi3_swallow_the_spaces_after_them(tmp_path: Path) -> None:
    files = built(write_gguf(tmp_path / "a.gguf", {"general.name": "Phi-3 Mini", **small()}))
    assert encoder(files)("<|im_end|> \n abc") == [28, 27]


def test_absent_pre_tokenizer_is_the_default_one(tmp_path: Path) -> None:
    metadata = {key: value for key, value in small().items() if key != "tokenizer.ggml.pre"}
    default = small_built(tmp_path, pre="default")
    assert built(write_gguf(tmp_path / "a.gguf", metadata)).json == default.json


# -- SentencePiece -----------------------------------------------------------------------------------------------------

CORPUS = (
    "the quick brown fox jumps over the lazy dog and then the other dog answers: this is nothing new under the sun. "
    "Those who think that they know everything annoy those of us who do. 12 34 1234 2024 ... ---- ==== "
    "naïve café über straße déjà vu; 日本 日本語 中文 привет мир. def f(x): return x\n\n  if x == 1:\n    pass\n"
) * 2


def sentencepiece(num_merges: int = 220) -> dict[str, Meta]:
    """A vocabulary trained on CORPUS the way SentencePiece does: the n-th merge has the score -n."""
    words = [list("▁" + word) for word in CORPUS.replace("\n", " \n ").split(" ")] + [list("▁" * 8)]
    pieces: list[str] = []
    for _ in range(num_merges):
        counts = Counter(pair for word in words for pair in pairwise(word) if "\n" not in pair)
        if not counts:
            break
        (left, right), _count = max(counts.items(), key=lambda item: (item[1], item[0]))
        pieces.append(left + right)
        words = [merged(word, left, right) for word in words]
    chars = sorted({char for char in CORPUS if char not in " \n"} | {"▁"})
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = list(dict.fromkeys(pieces))
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *pieces, *chars, "<|im_end|>", "<tool call>"]
    ranks = range(len(pieces) + len(chars))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in ranks] + [0.0, 0.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(ranks) + [3, 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def merged(word: list[str], left: str, right: str) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and out[-1] == left and symbol == right:
            out[-1] = left + right
        else:
            out.append(symbol)
    return out


def sentencepiece_texts() -> list[str]:
    words = CORPUS.split(" ")
    pieces = [
        *words[:60],
        *(f" {word}" for word in words[:60]),
        "▁",
        "<s>",
        "</s>",
        "<|im_end|>",
        "<tool call>",
        "<0x41>",
    ]
    return TRICKY + fuzzed(200, seed=15, pieces=pieces)


@pytest.mark.parametrize("prefix", [True, False, None])
def test_sentencepiece_gives_the_ids_of_llama_cpp(tmp_path: Path, prefix: bool | None) -> None:
    metadata = sentencepiece()
    if prefix is not None:
        metadata["tokenizer.ggml.add_space_prefix"] = prefix
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, len(tokens))
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, sentencepiece_texts()) == {}


def test_sentencepiece_with_bos_gives_the_ids_of_llama_cpp(tmp_path: Path) -> None:
    metadata = sentencepiece()
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, len(tokens))
    tokenizer = Tokenizer.from_buffer(built(path).json)
    with tokenizer_of(path) as tokenize:
        for text in ("", "the quick", " the", "<|im_end|>the"):
            assert tokenizer.encode(text).ids == tokenize(text, add_special=True)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_decodes_what_it_encoded(tmp_path: Path, prefix: bool) -> None:
    path = write_gguf(tmp_path / "a.gguf", {**sentencepiece(), "tokenizer.ggml.add_space_prefix": prefix})
    tokenizer = Tokenizer.from_buffer(built(path).json)
    texts = [text for text in sentencepiece_texts() if not any(mark in text for mark in ("▁", "<", "\ufffd"))]
    assert len(texts) > 150
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_sentencepiece_names_its_special_tokens(tmp_path: Path) -> None:
    files = built(write_gguf(tmp_path / "a.gguf", sentencepiece()))
    assert (files.bos_id, files.bos_token, files.eos_token, files.add_bos) == (1, "<s>", "</s>", True)
    assert files.eos_ids == [2, files.num_tokens - 2]
    assert files.chat_template is None


# -- bad vocabularies --------------------------------------------------------------------------------------------------


def refused(tmp_path: Path, metadata: dict[str, Meta], kind: type[Exception], expected: str) -> None:
    path = write_gguf(tmp_path / "bad.gguf", metadata)
    with pytest.raises(kind, match=expected) as error:
        built(path)
    assert str(error.value).startswith(f"{path}: tokenizer.")


@pytest.mark.parametrize("kind", ["rwkv", "plamo2", "hybriddna", "no_vocab", "nonsense\x1b"])
def test_unknown_tokenizer_model_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    shown = "nonsense" if "nonsense" in kind else kind
    refused(tmp_path, small(model=kind), UnsupportedModel, f"model is '{shown}.*': only bert, gpt2, llama, t5 can be")


@pytest.mark.parametrize("name", ["kimi-k2", "afmoe", "whitespace", "", "my-own", "GPT-2"])
def test_unknown_pre_tokenizer_is_refused_by_name(tmp_path: Path, name: str) -> None:
    refused(tmp_path, small(pre=name), UnsupportedModel, f"pre is '{name}', a pre-tokenizer that")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": [1, 2]}, "tokens: an array of int32 where strings"),
        ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, "tokens: ids 0 and 2 are both 'a'"),
        ({"token_type": [1, 1]}, "token_type: 2 entries for 32 tokens"),
        ({"token_type": ["x"] * 32}, "token_type: an array of strings"),
        ({"merges": ["a b", "b q"]}, "merges: merge 1, 'b q', does not join"),
        ({"merges": ["ab"]}, "merges: merge 0, 'ab', does not join"),
        ({"merges": [1]}, "merges: an array of int32"),
        ({"eos_token_id": 32}, "eos_token_id: 32 is not one of the 32 tokens"),
        ({"bos_token_id": -7}, "bos_token_id: -7 is not one of"),
        ({"bos_token_id": "x"}, "bos_token_id is 'x'"),
        ({"add_bos_token": 1}, "add_bos_token is '1'"),
        ({"add_bos_token": True, "bos_token_id": (1 << 32) - 1}, "add_bos_token: True, but the file names no bos"),
        ({"pre": 3}, "pre is '3'"),
    ],
)
def test_bad_byte_level_vocabulary_is_refused_naming_the_field(
    tmp_path: Path, changes: dict[str, Meta], expected: str
) -> None:
    path = write_gguf(tmp_path / "bad.gguf", small(**changes))
    with pytest.raises(BadCheckpoint, match=expected) as error:
        built(path)
    assert str(error.value).startswith(f"{path}: tokenizer.ggml.")


@pytest.mark.parametrize("field", ["model", "tokens", "merges"])
def test_missing_field_is_refused_by_name(tmp_path: Path, field: str) -> None:
    metadata = {key: value for key, value in small().items() if key != f"tokenizer.ggml.{field}"}
    refused(tmp_path, metadata, BadCheckpoint, f"tokenizer.ggml.{field} is missing")


def test_vocabulary_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"tokens: an array of int32|0 tokens"):
        small_built(tmp_path, tokens=[])


def test_token_that_is_not_utf8_is_refused_by_its_id(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "bad.gguf", small())
    raw = path.read_bytes()
    at = raw.index(b"<bos>")
    path.write_bytes(raw[:at] + b"<\xff\xfe>>" + raw[at + 5 :])
    with pytest.raises(BadCheckpoint, match=r"token 29, .*udcff.*is not UTF-8"):
        built(path)


def test_empty_token_keeps_its_id(tmp_path: Path) -> None:
    tokens = ["a", "", "b", "ab"]
    files = small_built(tmp_path, tokens=tokens, merges=["a b"], token_type=[1] * 4, bos_token_id=0, eos_token_id=0)
    assert Tokenizer.from_buffer(files.json).id_to_token(1) == "[EMPTY_1]"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("scores", [0.0], "scores: 1 entries for"),
        ("scores", None, "scores: missing"),
        ("unknown_token_id", 1 << 20, "unknown_token_id: 1048576 is not one of"),
    ],
)
def test_bad_sentencepiece_vocabulary_is_refused_naming_the_field(
    tmp_path: Path, field: str, value: Meta | None, expected: str
) -> None:
    metadata = sentencepiece(10)
    del metadata["tokenizer.ggml.scores" if value is None else f"tokenizer.ggml.{field}"]
    refused(
        tmp_path, metadata if value is None else {**metadata, f"tokenizer.ggml.{field}": value}, BadCheckpoint, expected
    )


def test_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    metadata = sentencepiece(10)
    scores = metadata["tokenizer.ggml.scores"]
    assert isinstance(scores, list)
    refused(
        tmp_path,
        {**metadata, "tokenizer.ggml.scores": [float("nan"), *scores[1:]]},
        BadCheckpoint,
        "scores: nan is not",
    )


def test_endless_piece_is_refused(tmp_path: Path) -> None:
    metadata = sentencepiece(10)
    tokens, scores, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    assert isinstance(tokens, list)
    assert isinstance(scores, list)
    assert isinstance(types, list)
    longer = {"tokens": [*tokens, "x" * 5000], "scores": [*scores, -1.0], "token_type": [*types, 1]}
    changed = {**metadata, **{f"tokenizer.ggml.{key}": value for key, value in longer.items()}}
    refused(tmp_path, changed, BadCheckpoint, "has 5000 characters; 256 are possible")


def test_vocabulary_of_the_real_file_is_not_materialized_by_opening_it(smollm2_gguf: Path) -> None:
    with open_gguf(smollm2_gguf) as file:
        assert isinstance(file.metadata["tokenizer.ggml.tokens"], MetaArray)
