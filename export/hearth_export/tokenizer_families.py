"""The kinds of vocabulary that GGUF has, `tokenizer.ggml.model`, as models of the `tokenizers` library.

'gpt2': byte-level BPE, words split by `tokenizer_pre`. 'llama': SentencePiece BPE, whose merges follow from the scores.
'bert': WordPiece. 't5': SentencePiece unigram.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec

from hearth_export.charsmap import check_charsmap
from hearth_export.errors import UnsupportedModel
from hearth_export.readers.values import MetaArray
from hearth_export.tokenizer_document import Part, bpe, byte_level, replace, sequence, spaces_decoder, split
from hearth_export.tokenizer_keys import (
    BYTE,
    NORMAL,
    SPACE,
    SPECIAL,
    UNUSED,
    Keys,
    Vocabulary,
    bad,
    numbers,
    strings,
    token_id,
)
from hearth_export.tokenizer_pre import pre_tokenizer

MAX_PIECE_CHARS = 256  # of a SentencePiece token; the search for its merges is quadratic
WORD_START = SPACE  # GGUF's WordPiece marks tokens that begin a word; Hugging Face's marks the others:
CONTINUATION = "##"


class Family(msgspec.Struct, frozen=True):
    """What a kind of vocabulary contributes to tokenizer.json, and its defaults where the file is silent."""

    normalizer: Part | None
    pre_tokenizer: Part | None
    model: Part
    decoder: Part
    tokens: list[str]  # by id, as the model spells them
    add_bos: bool
    add_eos: bool = False
    bos_id: int | None = None
    eos_id: int | None = None
    always_adds: bool = False  # whatever the file says


def family_of(keys: Keys, vocabulary: Vocabulary) -> Family:
    """UnsupportedModel names a tokenizer model or pre-tokenizer that is not known."""
    kind = keys.require("tokenizer.ggml.model", str)
    family = FAMILIES.get(kind)
    if family is None:
        raise UnsupportedModel(
            f"{keys.path}: tokenizer.ggml.model is {kind[:64]!r}: only {', '.join(sorted(FAMILIES))} can be converted"
        )
    return family(keys, vocabulary)


# -- 'gpt2' ------------------------------------------------------------------------------------------------------------


def _gpt2(keys: Keys, vocabulary: Vocabulary) -> Family:
    try:
        row = pre_tokenizer(keys.get("tokenizer.ggml.pre", str, "default"))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{keys.path}: {error}") from error
    merges = _merges(keys, vocabulary)
    splits = [split(pattern) for pattern in row.patterns]
    if row.visible_spaces:
        return Family(
            normalizer=replace(" ", SPACE),
            pre_tokenizer=sequence("pretokenizers", splits),
            model=bpe(vocabulary.ids, merges, ignore_merges=row.ignore_merges, byte_fallback=True),
            decoder=spaces_decoder(False),
            tokens=vocabulary.tokens,
            add_bos=row.add_bos,
            always_adds=row.add_bos,
        )
    return Family(
        normalizer=None,
        pre_tokenizer=sequence("pretokenizers", [*splits, byte_level(), *_isolated(vocabulary)]),
        model=bpe(vocabulary.ids, merges, ignore_merges=row.ignore_merges),
        decoder=byte_level(),
        tokens=vocabulary.tokens,
        add_bos=row.add_bos,
    )


def byte_chars() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: GPT-2's `bytes_to_unicode`."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(spare)) for byte in range(256)]


def _isolated(vocabulary: Vocabulary) -> list[Part]:
    """Bytes without a token are dropped by both engines, but must not let their neighbours merge across them."""
    missing = [char for char in byte_chars() if char not in vocabulary.ids]
    return [split("[" + "".join(f"\\x{{{ord(char):x}}}" for char in missing) + "]")] if missing else []


def _merges(keys: Keys, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    tokens, ids = vocabulary.tokens, vocabulary.ids
    merges: dict[tuple[str, str], None] = {}
    for index, merge in enumerate(strings(keys, "merges").strings()):
        at = merge.find(" ", 1)  # not at 0: a token may begin with a space
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or left not in ids or right not in ids or left + right not in ids:
            bad(keys, "merges", f"merge {index}, {ascii(merge)[:64]}, does not join two tokens to a third")
        merges[tokens[ids[left]], tokens[ids[right]]] = None
    return list(merges)


# -- 'llama' -----------------------------------------------------------------------------------------------------------


def _llama(keys: Keys, vocabulary: Vocabulary) -> Family:
    prefix = keys.get("tokenizer.ggml.add_space_prefix", bool, True)
    unknown_id = token_id(keys, len(vocabulary.tokens), "unknown", 0)
    prepend: list[Part] = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    return Family(
        normalizer=sequence("normalizers", [*prepend, replace(" ", SPACE)]),
        pre_tokenizer=None,
        model=bpe(
            vocabulary.ids,
            _merges_of_scores(keys, vocabulary),
            unk_token=None if unknown_id is None else vocabulary.tokens[unknown_id],
            fuse_unk=True,
            byte_fallback=True,
        ),
        decoder=spaces_decoder(prefix),
        tokens=vocabulary.tokens,
        add_bos=True,
        bos_id=1,
        eos_id=2,
    )


def _merges_of_scores(keys: Keys, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to join two tokens to a third, best score of the third first: SentencePiece's own order."""
    scores = numbers(keys, "scores", len(vocabulary.tokens))
    if scores is None:
        bad(keys, "scores", "missing from the metadata")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [pair for index in order for pair in _splits_of(keys, vocabulary, index)]


def _splits_of(keys: Keys, vocabulary: Vocabulary, index: int) -> list[tuple[str, str]]:
    text, tokens, ids = vocabulary.tokens[index], vocabulary.tokens, vocabulary.ids
    if len(text) > MAX_PIECE_CHARS:
        if vocabulary.types[index] == NORMAL:
            bad(keys, "tokens", f"token {index} has {len(text)} characters; {MAX_PIECE_CHARS} are possible")
        return []
    cuts = ((ids.get(text[:at]), ids.get(text[at:])) for at in range(1, len(text)))
    return [(tokens[left], tokens[right]) for left, right in cuts if left is not None and right is not None]


# -- 'bert' ------------------------------------------------------------------------------------------------------------


def _bert(keys: Keys, vocabulary: Vocabulary) -> Family:
    num_tokens = len(vocabulary.tokens)
    unknown_id = token_id(keys, num_tokens, "unknown", 100)
    if unknown_id is None:
        bad(keys, "unknown_token_id", "there is none, which WordPiece cannot do without")
    first = token_id(keys, num_tokens, "cls", 101)
    last = token_id(keys, num_tokens, "seperator", 102)  # the format's own spelling
    named = {unknown_id, first, last, token_id(keys, num_tokens, "bos", None), token_id(keys, num_tokens, "eos", None)}
    tokens = _word_pieces(keys, vocabulary, named)
    lowercase = keys.get("tokenizer.ggml.normalizer.lowercase", bool, True)
    return Family(
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": keys.get("tokenizer.ggml.normalizer.strip_accents", bool, lowercase),
            "lowercase": lowercase,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        model={
            "type": "WordPiece",
            "unk_token": tokens[unknown_id],
            "continuing_subword_prefix": CONTINUATION,
            "max_input_chars_per_word": 100,
            "vocab": {text: index for index, text in enumerate(tokens)},
        },
        decoder={"type": "WordPiece", "prefix": CONTINUATION, "cleanup": True},
        tokens=tokens,
        add_bos=True,
        add_eos=True,
        bos_id=first,
        eos_id=last,
        always_adds=True,
    )


def _word_pieces(keys: Keys, vocabulary: Vocabulary, named: set[int | None]) -> list[str]:
    """The tokens as Hugging Face spells them: "▁the" is "the" and "ing" is "##ing"; special ones are as they are."""
    tokens: list[str] = []
    seen: dict[str, int] = {}
    for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if (
            index in named
            or kind in (*SPECIAL, UNUSED)
            or (text.startswith("[") and text.endswith("]") and text != "[]")
        ):
            piece = text
        elif text.startswith(WORD_START) and text != WORD_START:
            piece = text.removeprefix(WORD_START)
        else:
            piece = CONTINUATION + text
        if seen.setdefault(piece, index) != index:
            bad(keys, "tokens", f"ids {seen[piece]} and {index} are both {ascii(piece)[:64]} as word pieces")
        tokens.append(piece)
    return tokens


# -- 't5' --------------------------------------------------------------------------------------------------------------


def _t5(keys: Keys, vocabulary: Vocabulary) -> Family:
    scores = numbers(keys, "scores", len(vocabulary.tokens))
    if scores is None:
        bad(keys, "scores", "missing from the metadata")
    unknown_id = token_id(keys, len(vocabulary.tokens), "unknown", 2)
    if unknown_id is None:
        bad(keys, "unknown_token_id", "there is none, which a unigram vocabulary cannot do without")
    return Family(
        normalizer=sequence("normalizers", _unigram_normalizers(keys)),
        pre_tokenizer=None,
        model={
            "type": "Unigram",
            "unk_id": unknown_id,
            "vocab": list(zip(vocabulary.tokens, _raised(scores, vocabulary.types), strict=True)),
            "byte_fallback": BYTE in vocabulary.types,
        },
        decoder={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        tokens=vocabulary.tokens,
        add_bos=False,
        add_eos=True,
        eos_id=1,
    )


def _raised(scores: list[float], types: list[int]) -> list[float]:
    """Scores of tokens that are not normal, raised to the least normal one: what an unknown character costs follows
    from the least score of all, and converters fill gaps with -1000 or -10000."""
    least = min((score for score, kind in zip(scores, types, strict=True) if kind == NORMAL), default=0.0)
    return [max(score, least) for score in scores]


def _unigram_normalizers(keys: Keys) -> list[Part]:
    charsmap = _charsmap(keys)
    steps: list[Part] = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    if keys.get("tokenizer.ggml.remove_extra_whitespaces", bool, False):
        steps += [replace(r"\A +| +\z", "", regex=True), replace(" {2,}", " ", regex=True)]
        prefix = True  # every word, the first one too, gets its space
    else:
        prefix = keys.get("tokenizer.ggml.add_space_prefix", bool, True)
    if prefix:
        steps.append(replace(r"\A(?= *[^ ])", SPACE, regex=True))
    return [*steps, replace(" ", SPACE)]


def _charsmap(keys: Keys) -> str:
    """`precompiled_charsmap` in base64; "" where there is none."""
    field = "precompiled_charsmap"
    array = keys.get(f"tokenizer.ggml.{field}", MetaArray)
    if array is None or len(array) == 0:
        return ""
    if array.element not in ("int8", "uint8"):
        bad(keys, field, f"an array of {array.element} where bytes are expected")
    raw = array.numpy().tobytes()
    try:
        check_charsmap(raw)
    except ValueError as error:
        bad(keys, field, str(error))
    return base64.b64encode(raw).decode()


FAMILIES: dict[str, Callable[[Keys, Vocabulary], Family]] = {"gpt2": _gpt2, "llama": _llama, "bert": _bert, "t5": _t5}
