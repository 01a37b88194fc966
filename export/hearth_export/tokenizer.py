"""GGUF vocabulary -> tokenizer.json for the `tokenizers` library, with the ids that llama.cpp gives.

Two families: 'gpt2' (byte-level BPE, words split by `tokenizer_pre`) and 'llama' (SentencePiece BPE: merges follow from
the scores). Text of control, user-defined and unknown tokens is always parsed as the token, longest match first, as
llama.cpp does with parse_special. Where two such texts overlap in the input without one holding the other, the leftmost
wins here and the longest there; no known vocabulary has such a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgspec
import numpy as np

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.readers.gguf import GGUF, MetaArray
from hearth_export.tokenizer_pre import pre_tokenizer

MAX_TOKENS = 1 << 21
MAX_PIECE_CHARS = 256  # of a SentencePiece token; the search for its merges is quadratic
SPACE = "\u2581"  # SentencePiece's visible space

# token types, `enum llama_token_type` in llama.h
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# texts that end a turn whatever the metadata calls them; the list is llama.cpp's (`special_eog_ids`, llama-vocab.cpp)
END_TOKENS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>",
    "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
))  # fmt: skip
# control tokens that do not end a turn, and that converters are known to have left as normal ones
FILL_TOKENS = frozenset((
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
    "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>",
    "▁<MID>", "<|code_middle|>", "<|middle|>",
))  # fmt: skip
# markup that ordinary text holds too: special only where the file says so
PLAIN_TEXTS = frozenset({"</s>"})
END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


class TokenizerFiles(msgspec.Struct, frozen=True):
    """What a variant needs to turn text into ids and back."""

    json: str  # a Hugging Face tokenizer.json
    num_tokens: int
    bos_id: int | None
    eos_ids: list[int]  # every id that ends a generation, ascending; never bos unless bos is eos
    add_bos: bool  # put bos before a prompt that does not start with it
    add_eos: bool
    bos_token: str  # text of bos for the chat template; "" where there is none
    eos_token: str
    chat_template: str | None


class Vocabulary(msgspec.Struct, frozen=True):
    """Tokens by id, with their types as llama.cpp sees them after its corrections."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]


class _Model(msgspec.Struct, frozen=True):
    """What a family contributes to tokenizer.json, and its defaults where the file is silent."""

    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any] | None
    model: dict[str, Any]
    decoder: dict[str, Any]
    add_bos: bool
    bos_id: int | None = None
    eos_id: int | None = None


def build(gguf: GGUF) -> TokenizerFiles:
    """The tokenizer of the file.

    Raises UnsupportedModel for a tokenizer model or pre-tokenizer that is not known and BadCheckpoint for a vocabulary
    that contradicts itself; both name file, field and value.
    """
    kind = gguf.require("tokenizer.ggml.model", str)
    family = FAMILIES.get(kind)
    if family is None:
        raise UnsupportedModel(
            f"{gguf.path}: tokenizer.ggml.model is {kind[:64]!r}: only {', '.join(sorted(FAMILIES))} can be converted"
        )
    vocabulary = _vocabulary(gguf)
    model = family(gguf, vocabulary)
    bos_id = _token_id(gguf, vocabulary, "bos", model.bos_id)
    eos_id = _token_id(gguf, vocabulary, "eos", model.eos_id)
    add_bos = _adds(gguf, "bos", bos_id, model.add_bos)
    add_eos = _adds(gguf, "eos", eos_id, False)
    return TokenizerFiles(
        json=_document(gguf, vocabulary, model, bos_id if add_bos else None, eos_id if add_eos else None),
        num_tokens=len(vocabulary.tokens),
        bos_id=bos_id,
        eos_ids=_end_ids(gguf, vocabulary, bos_id, eos_id),
        add_bos=add_bos,
        add_eos=add_eos,
        bos_token="" if bos_id is None else vocabulary.tokens[bos_id],
        eos_token="" if eos_id is None else vocabulary.tokens[eos_id],
        chat_template=gguf.get("tokenizer.chat_template", str),
    )


def _bad(gguf: GGUF, field: str, why: str) -> NoReturn:
    raise BadCheckpoint(f"{gguf.path}: tokenizer.ggml.{field}: {why}")


# -- vocabulary --------------------------------------------------------------------------------------------------------


def _strings(gguf: GGUF, field: str) -> MetaArray:
    array = gguf.require(f"tokenizer.ggml.{field}", MetaArray)
    if array.element != "string":
        _bad(gguf, field, f"an array of {array.element} where strings are expected")
    return array


def _numbers(gguf: GGUF, field: str, num_tokens: int) -> list[float] | None:
    """One number a token, or None where the file has none."""
    array = gguf.get(f"tokenizer.ggml.{field}", MetaArray)
    if array is None:
        return None
    if array.element == "string":
        _bad(gguf, field, "an array of strings where numbers are expected")
    if len(array) != num_tokens:
        _bad(gguf, field, f"{len(array)} entries for {num_tokens} tokens")
    values = np.asarray(array.numpy(), np.float64)
    if not np.isfinite(values).all():
        _bad(gguf, field, f"{values[~np.isfinite(values)][0]} is not a number")
    return [float(value) for value in values]


def _vocabulary(gguf: GGUF) -> Vocabulary:
    array = _strings(gguf, "tokens")
    if not 0 < len(array) <= MAX_TOKENS:
        _bad(gguf, "tokens", f"{len(array)} tokens; 1 to {MAX_TOKENS} are possible")
    ids: dict[str, int] = {}
    tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(array.strings())]
    for index, text in enumerate(tokens):
        if ids.setdefault(text, index) != index:
            _bad(gguf, "tokens", f"ids {ids[text]} and {index} are both {ascii(text)[:64]}")
        if not text.isascii() and any("\udc80" <= char <= "\udcff" for char in text):
            _bad(gguf, "tokens", f"token {index}, {ascii(text)[:64]}, is not UTF-8")
    types = _numbers(gguf, "token_type", len(tokens)) or [NORMAL] * len(tokens)
    return Vocabulary(tokens, _corrected(tokens, [int(value) for value in types]), ids)


def _corrected(tokens: list[str], types: list[int]) -> list[int]:
    """Well-known control tokens that a converter left as normal ones become control tokens, as in llama.cpp."""
    known = (END_TOKENS | FILL_TOKENS) - PLAIN_TEXTS
    return [CONTROL if kind == NORMAL and text in known else kind for text, kind in zip(tokens, types, strict=True)]


def _token_id(gguf: GGUF, vocabulary: Vocabulary, name: str, default: int | None) -> int | None:
    field = f"{name}_token_id"
    value = gguf.get(f"tokenizer.ggml.{field}", int)
    num_tokens = len(vocabulary.tokens)
    if value is None:
        return default if default is not None and default < num_tokens else None
    if value == 0xFFFFFFFF or value == -1:  # how some converters write "none"
        return None
    if not 0 <= value < num_tokens:
        _bad(gguf, field, f"{value} is not one of the {num_tokens} tokens")
    return value


def _adds(gguf: GGUF, name: str, token_id: int | None, default: bool) -> bool:
    field = f"add_{name}_token"
    asked = gguf.get(f"tokenizer.ggml.{field}", bool)
    if asked and token_id is None:
        _bad(gguf, field, f"True, but the file names no {name} token")
    return (default if asked is None else asked) and token_id is not None


def _end_ids(gguf: GGUF, vocabulary: Vocabulary, bos_id: int | None, eos_id: int | None) -> list[int]:
    named = {_token_id(gguf, vocabulary, name, None) for name in END_KEYS} | {eos_id}
    ends = {
        index
        for text in END_TOKENS
        if (index := vocabulary.ids.get(text)) is not None and vocabulary.types[index] in (CONTROL, USER_DEFINED)
    }
    ends |= {index for index in named if index is not None}
    if bos_id != eos_id and bos_id is not None:
        ends.discard(bos_id)
    return sorted(ends - _not_ends(vocabulary, ends))


def _not_ends(vocabulary: Vocabulary, ends: set[int]) -> set[int]:
    """In harmony-like vocabularies <|end|> closes a message, not the turn (llama.cpp, same place as END_TOKENS)."""
    texts = {vocabulary.tokens[index] for index in ends}
    if {"<|return|>", "<|call|>", "<|end|>"} <= texts or {"<|calls|>", "<|flush|>", "<|end|>"} <= texts:
        return {vocabulary.ids["<|end|>"]}
    return set()


# -- tokenizer.json ----------------------------------------------------------------------------------------------------


def _document(gguf: GGUF, vocabulary: Vocabulary, model: _Model, bos_id: int | None, eos_id: int | None) -> str:
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary, _strips_right(gguf)),
        "normalizer": model.normalizer,
        "pre_tokenizer": model.pre_tokenizer,
        "post_processor": _template(vocabulary, bos_id, eos_id),
        "decoder": model.decoder,
        "model": model.model,
    }
    return msgspec.json.encode(document).decode()


def _strips_right(gguf: GGUF) -> bool:
    """Phi-3's special tokens swallow the spaces after them; only the model's name tells (llama.cpp does the same)."""
    name = gguf.get("general.name", str, "").lower()
    return "phi-3" in name or "phi3" in name


def _added_tokens(vocabulary: Vocabulary, strips_right: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": strips_right and text not in ("<unk>", "<s>", "<|endoftext|>"),
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]


def _template(vocabulary: Vocabulary, bos_id: int | None, eos_id: int | None) -> dict[str, Any] | None:
    """Only encode(..., add_special_tokens=True) goes through it."""
    if bos_id is None and eos_id is None:
        return None
    before = [] if bos_id is None else [{"SpecialToken": {"id": vocabulary.tokens[bos_id], "type_id": 0}}]
    after = [] if eos_id is None else [{"SpecialToken": {"id": vocabulary.tokens[eos_id], "type_id": 0}}]
    texts = {index: vocabulary.tokens[index] for index in (bos_id, eos_id) if index is not None}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*before, first, *after],
        "pair": [*before, first, second, *after],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for index, text in texts.items()},
    }


def _bpe(vocabulary: Vocabulary, merges: Sequence[tuple[str, str]], **settings: object) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocabulary.ids,
        "merges": merges,
    }


# -- 'gpt2' ------------------------------------------------------------------------------------------------------------


def _gpt2(gguf: GGUF, vocabulary: Vocabulary) -> _Model:
    try:
        row = pre_tokenizer(gguf.get("tokenizer.ggml.pre", str, "default"))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{gguf.path}: {error}") from error
    splits = [_split(pattern) for pattern in row.patterns]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _Model(
        normalizer=None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*splits, byte_level, *_isolated(vocabulary)]},
        model=_bpe(vocabulary, _gpt2_merges(gguf, vocabulary), ignore_merges=row.ignore_merges),
        decoder=byte_level,
        add_bos=row.add_bos,
    )


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_chars() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: GPT-2's `bytes_to_unicode`."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(spare)) for byte in range(256)]


def _isolated(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Bytes without a token are dropped by both engines, but must not let their neighbours merge across them."""
    missing = [char for char in byte_chars() if char not in vocabulary.ids]
    return [_split("[" + "".join(f"\\x{{{ord(char):x}}}" for char in missing) + "]")] if missing else []


def _gpt2_merges(gguf: GGUF, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    tokens, ids = vocabulary.tokens, vocabulary.ids
    merges: dict[tuple[str, str], None] = {}
    for index, merge in enumerate(_strings(gguf, "merges").strings()):
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            _bad(gguf, "merges", f"merge {index}, {ascii(merge)[:64]}, does not join two tokens to a third")
        merges[tokens[ids[left]], tokens[ids[right]]] = None
    return list(merges)


# -- 'llama' -----------------------------------------------------------------------------------------------------------


def _llama(gguf: GGUF, vocabulary: Vocabulary) -> _Model:
    prefix = gguf.get("tokenizer.ggml.add_space_prefix", bool, True)
    unknown_id = _token_id(gguf, vocabulary, "unknown", 0)
    to_visible: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend: dict[str, Any] = {"type": "Prepend", "prepend": SPACE}
    return _Model(
        normalizer={"type": "Sequence", "normalizers": [prepend, to_visible] if prefix else [to_visible]},
        pre_tokenizer=None,
        model=_bpe(
            vocabulary,
            _llama_merges(gguf, vocabulary),
            unk_token=None if unknown_id is None else vocabulary.tokens[unknown_id],
            fuse_unk=True,
            byte_fallback=True,
        ),
        decoder=_llama_decoder(prefix),
        add_bos=True,
        bos_id=1,
        eos_id=2,
    )


def _llama_decoder(prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {"type": "Sequence", "decoders": [*steps, strip] if prefix else steps}


def _llama_merges(gguf: GGUF, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to join two tokens to a third, best score of the third first: SentencePiece's own order."""
    scores = _numbers(gguf, "scores", len(vocabulary.tokens))
    if scores is None:
        _bad(gguf, "scores", "missing from the metadata")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [pair for index in order for pair in _splits_of(gguf, vocabulary, index)]


def _splits_of(gguf: GGUF, vocabulary: Vocabulary, index: int) -> list[tuple[str, str]]:
    text, tokens, ids = vocabulary.tokens[index], vocabulary.tokens, vocabulary.ids
    if len(text) > MAX_PIECE_CHARS:
        if vocabulary.types[index] == NORMAL:
            _bad(gguf, "tokens", f"token {index} has {len(text)} characters; {MAX_PIECE_CHARS} are possible")
        return []
    cuts = ((ids.get(text[:at]), ids.get(text[at:])) for at in range(1, len(text)))
    return [(tokens[left], tokens[right]) for left, right in cuts if left is not None and right is not None]


FAMILIES: dict[str, Callable[[GGUF, Vocabulary], _Model]] = {"gpt2": _gpt2, "llama": _llama}
