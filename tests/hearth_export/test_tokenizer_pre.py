from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from hearth_export.errors import UnsupportedModel
from hearth_export.tokenizer_document import byte_level, split
from hearth_export.tokenizer_families import byte_chars
from hearth_export.tokenizer_pre import PRE_TOKENIZERS, PreTokenizer, name_of
from tests.hearth_export.gguf_writer import Meta, write_gguf, write_tiny_llama
from tests.hearth_export.llama_cpp import tokenizer_of
from tests.hearth_export.tokenizing import built, differences, encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

SPECIAL_TEXTS = ("<|end|>", "<bos>", "<tool>", "<|end", "1234567", " 12345 ", "   \n", "\u200b", "\u200d", "אב", "ع")


@cache
def pairwise_vocabulary() -> tuple[list[str], list[str]]:
    chars = byte_chars()
    pairs = [(left, right) for left in chars for right in chars]
    random.Random(3).shuffle(pairs)
    tokens = [*chars, *(left + right for left, right in pairs), "<|end|>", "<bos>", "<tool>"]
    return tokens, [f"{left} {right}" for left, right in pairs]


def pairwise(name: str, **changes: Meta) -> dict[str, Meta]:
    """A vocabulary in which every two bytes of a word merge, in random order: each word boundary shows in the ids."""
    tokens, merges = pairwise_vocabulary()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 3) + [3, 3, 4],
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 3,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


NUM_PAIRWISE = 256 + (1 << 16) + 3

# one name for each distinct set of patterns that llama.cpp takes unchanged
EXACT = [
    "default", "gpt-2", "smollm", "falcon", "llama-bpe", "smaug-bpe", "qwen2", "qwen35", "seed-coder", "bailingmoe",
    "deepseek-v3", "viking", "bloom", "minicpm5", "jais-2", "laguna", "ufakzeka", "exaone-moe", "spark2_5",
    "chameleon",
]  # fmt: skip
# llama.cpp approximates these: capitals and marks beyond ASCII, spaces beyond ASCII, digits beyond ASCII
CLOSE = ["gpt-4o", "tekken", "youtu", "deepseek-coder", "deepseek-llm", "superbpe"]
# and of this one the digits before letters or behind several spaces, too
DIGITS_APART = ["tiny_aya"]
DIGITS = re.compile(r"\d(?!\d)\w|\s\s\d")


@pytest.mark.parametrize("name", EXACT)
def test_pre_tokenizer_gives_the_ids_of_llama_cpp(tmp_path: Path, name: str) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", pairwise(name), NUM_PAIRWISE)
    texts = TRICKY + fuzzed(200, seed=13, pieces=SPECIAL_TEXTS)
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, texts) == {}


@pytest.mark.parametrize("name", CLOSE + DIGITS_APART)
def test_pre_tokenizer_gives_the_ids_of_llama_cpp_for_texts_that_it_does_not_approximate(
    tmp_path: Path, name: str
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", pairwise(name), NUM_PAIRWISE)
    texts = [text for text in TRICKY + fuzzed(1200, seed=14, pieces=SPECIAL_TEXTS) if not any(map(odd, text))]
    if name in DIGITS_APART:
        texts = [text for text in texts if not DIGITS.search(text)]
    assert len(texts) > 200
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, texts) == {}


def odd(char: str) -> bool:
    categories = ("Mn", "Mc", "Me", "Lu", "Lt", "Ll", "Nd", "Nl", "No", "Zl", "Zp", "Zs")
    return not char.isascii() and (unicodedata.category(char) in categories or char.isspace())


def test_every_distinct_set_of_patterns_is_compared_with_llama_cpp() -> None:
    compared = {PRE_TOKENIZERS[name].patterns for name in EXACT + CLOSE + DIGITS_APART}
    assert {row.patterns for row in PRE_TOKENIZERS.values() if not row.visible_spaces} == compared


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_of_the_table_is_loadable_and_lossless(tmp_path: Path, name: str) -> None:
    chars = visible_chars() if PRE_TOKENIZERS[name].visible_spaces else byte_chars()
    tokens = [*chars, "<|end|>", "ab"]
    ids: dict[str, Meta] = {"eos_token_id": len(chars), "bos_token_id": len(chars)}
    types = [1] * len(chars) + [3, 1]
    path = write_gguf(tmp_path / "a.gguf", pairwise(name, tokens=tokens, merges=["a b"], token_type=types, **ids))
    tokenizer = Tokenizer.from_buffer(built(path).json)
    for text in TRICKY:
        decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        assert decoded == (text.replace("▁", " ") if PRE_TOKENIZERS[name].visible_spaces else text)


def visible_chars() -> list[str]:
    return [*(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "\n"]


@pytest.mark.parametrize("name", ["gemma4", "sarvam-moe"])
def test_bpe_of_visible_spaces_gives_the_ids_of_llama_cpp(tmp_path: Path, name: str) -> None:
    words = ["▁", "a", "b", "e", "h", "l", "o", "t", "\n", "1", "2", "th", "▁th", "▁the", "he", "ll", "llo", "hello"]
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), *words, "▁▁", "\n\n", "<end>"]
    merges = ["t h", "▁ th", "▁th e", "h e", "l l", "ll o", "he llo", "▁ ▁"]
    types = [6] * 256 + [1] * (len(words) + 2) + [3]
    metadata = pairwise(name, tokens=tokens, merges=merges, token_type=types)
    metadata |= {"tokenizer.ggml.bos_token_id": len(tokens) - 1, "tokenizer.ggml.eos_token_id": len(tokens) - 1}
    path = write_tiny_llama(tmp_path / "tiny.gguf", metadata, len(tokens))
    texts = TRICKY + fuzzed(200, seed=16, pieces=(" the", "hello", "  ", "<end>", "\n"))
    texts = [text for text in texts if "\n\n" not in text and "▁▁" not in text]
    assert len(texts) > 200
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(built(path)), tokenize, texts) == {}


# -- the name of a pre-tokenizer ---------------------------------------------------------------------------------------


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@pytest.mark.parametrize("name", [name for name, row in PRE_TOKENIZERS.items() if not row.visible_spaces])
def test_splits_of_each_row_are_told_from_those_of_all_others(name: str) -> None:
    row = PRE_TOKENIZERS[name]
    found = PRE_TOKENIZERS[name_of(steps_of(row), row.ignore_merges)]
    assert found.ignore_merges == row.ignore_merges
    ours, theirs = splitter(row), splitter(found)
    for text in TRICKY + fuzzed(200, seed=17, pieces=SPECIAL_TEXTS):
        assert ours(text) == theirs(text)


def steps_of(row: PreTokenizer) -> dict[str, Any]:
    return sequence(*map(split, row.patterns), byte_level())


def splitter(row: PreTokenizer) -> Callable[[str], object]:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": steps_of(row), "model": model}
    tokenizer = Tokenizer.from_str(json.dumps(document))

    def pieces(text: str) -> object:
        return tokenizer.pre_tokenizer.pre_tokenize_str(text)

    return pieces


# as the models' own files write them
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "name"),
    [
        ([{**byte_level(), "use_regex": True}], False, "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {**byte_level(), "use_regex": True}], False, "smollm"),
        ([split(LLAMA3), byte_level()], True, "llama-bpe"),
        ([split(LLAMA3), byte_level()], False, "dbrx"),
        ([split(LLAMA3.replace("{1,3}", "")), byte_level()], False, "qwen2"),
    ],
)
def test_name_follows_from_the_steps_of_well_known_models(
    steps: list[dict[str, Any]], ignore_merges: bool, name: str
) -> None:
    assert name_of(sequence(*steps), ignore_merges) == name


@pytest.mark.parametrize(
    "steps",
    [
        [split(LLAMA3.replace("{1,3}", "{1,4}")), byte_level()],
        [{"type": "Whitespace"}, byte_level()],
        [{**byte_level(), "use_regex": True, "add_prefix_space": True}],
        [],
    ],
)
def test_splits_of_no_row_have_no_name(steps: list[dict[str, Any]]) -> None:
    with pytest.raises(UnsupportedModel, match="no pre-tokenizer that GGUF can name"):
        name_of(sequence(*steps), False)


@pytest.mark.parametrize("part", [None, {"type": "Nonsense"}, sequence({"type": "Split"})])
def test_unusable_pre_tokenizer_is_refused(part: dict[str, Any] | None) -> None:
    with pytest.raises(UnsupportedModel, match="pre_tokenizer"):
        name_of(part, False)
