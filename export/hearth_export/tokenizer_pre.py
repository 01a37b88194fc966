"""How a byte-level BPE vocabulary splits text into words, by the name in `tokenizer.ggml.pre`.

The names and their regexes are those of llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe` and `impl::load`), which in
turn took each regex from the `pre_tokenizer` of the model's own tokenizer.json on Hugging Face. Where llama.cpp only
approximates one (capitals and combining marks in tekken, gpt-4o and youtu, spaces beyond ASCII in deepseek-coder and
deepseek-llm, digits in superbpe and tiny_aya), the model's own stands here. Names of llama.cpp that are missing have
words of another kind (kimi-k2, whitespace) or a regex that is not known (afmoe). Patterns apply one after the other,
each splitting what the one before left whole. They are written for Oniguruma, which the `tokenizers` library uses.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from hearth_export.errors import UnsupportedModel
from hearth_export.tokenizer_document import byte_level, split


class PreTokenizer(msgspec.Struct, frozen=True):
    """A row of the table."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    add_bos: bool = False  # where the file does not say
    visible_spaces: bool = False  # not byte-level: spaces are ▁ and rare characters tokens of bytes


_ANY_CASE = "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _like_gpt4(digits: str, letters: str = r"\p{L}", symbol: str = r"[^\s\p{L}\p{N}]", after: str = r"[\r\n]*") -> str:
    """The family of cl100k_base: contractions, words with one leading symbol, digits, symbols with line ends."""
    return rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?{symbol}+{after}|{_TAIL}"


def _like_o200k(suffix: str, digits: str) -> str:
    """The family of o200k_base: words break before a capital that follows small letters."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    first = r"[^\r\n\p{L}\p{N}]?"
    words = f"{first}{upper}*{lower}+{suffix}|{first}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _like_gpt4(r"\p{N}{1,3}")
_QWEN2 = _like_gpt4(r"\p{N}")
_DEEPSEEK3_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+"
)
_DEEPSEEK3 = (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", rf"{_DEEPSEEK3_WORDS}[\r\n]*|{_TAIL}")
_YOUTU_CJK = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+"
_THREES = r"\p{Nd}{1,3}(?=(?:\p{Nd}{3})*\b)"  # digits in threes, counted from the last
_DEEPSEEK_LETTERS = (  # letters with case of the alphabets that its regex lists
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_GPT2_ROW = PreTokenizer((_GPT2,))
_DIGITS_GPT2_ROW = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_ROW = PreTokenizer((_LLAMA3,))
_LLAMA3_BOS_ROW = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2_ROW = PreTokenizer((_QWEN2,))
_DEEPSEEK3_ROW = PreTokenizer(_DEEPSEEK3)
_GPT4O_ROW = PreTokenizer((_like_o200k(f"(?:{_ANY_CASE})?", r"\p{N}{1,3}"),))
_TINY_AYA_ROW = PreTokenizer((_THREES, _like_o200k(f"(?:{_ANY_CASE})?", r"\p{N}{1,3}")))
_VISIBLE_ROW = PreTokenizer((r"[^\n]+|[\n]+",), visible_spaces=True)
_GEMMA4_ROW = PreTokenizer((r"[^\n]+|[\n]+",), visible_spaces=True, add_bos=True)
_BAILING_ROW = PreTokenizer(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    )
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    # GPT-2's own, https://github.com/openai/gpt-2/blob/master/src/encoder.py
    "gpt-2": _GPT2_ROW,
    "phi-2": _GPT2_ROW,
    "mpt": _GPT2_ROW,
    "olmo": _GPT2_ROW,
    "jais": _GPT2_ROW,
    "trillion": _GPT2_ROW,
    "granite-docling": _GPT2_ROW,
    "gigachat": _GPT2_ROW,
    "exaone4": _GPT2_ROW,
    "a.x-4.0": _GPT2_ROW,
    "mellum": _GPT2_ROW,
    "modern-bert": _GPT2_ROW,
    "roberta-bpe": _GPT2_ROW,
    "jina-es": _GPT2_ROW,
    "jina-de": _GPT2_ROW,
    "jina-v1-en": _GPT2_ROW,
    "jina-v2-es": _GPT2_ROW,
    "jina-v2-de": _GPT2_ROW,
    "jina-v2-code": _GPT2_ROW,
    # the same after single digits
    "smollm": _DIGITS_GPT2_ROW,
    "starcoder": _DIGITS_GPT2_ROW,
    "refact": _DIGITS_GPT2_ROW,
    "command-r": _DIGITS_GPT2_ROW,
    "codeshell": _DIGITS_GPT2_ROW,
    "exaone": _DIGITS_GPT2_ROW,
    "minerva-7b": _DIGITS_GPT2_ROW,
    "mellum2": _DIGITS_GPT2_ROW,
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    # cl100k_base and its kin, https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py
    "llama-bpe": _LLAMA3_BOS_ROW,
    "llama3": _LLAMA3_BOS_ROW,
    "llama-v3": _LLAMA3_BOS_ROW,
    "falcon3": _LLAMA3_BOS_ROW,
    "falcon-h1": _LLAMA3_BOS_ROW,
    "pixtral": _LLAMA3_BOS_ROW,
    "midm-2.0": _LLAMA3_BOS_ROW,
    "lfm2": _LLAMA3_BOS_ROW,
    "jina-v5-nano": _LLAMA3_BOS_ROW,
    "dbrx": _LLAMA3_ROW,
    "smaug-bpe": _LLAMA3_ROW,
    "glm4": _LLAMA3_ROW,
    "chatglm-bpe": _LLAMA3_ROW,
    "jais-2": PreTokenizer(
        (
            _like_gpt4(r"\p{N}{1,3}").removesuffix(r"|\s+(?!\S)|\s+")
            + "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"|\s{1,2}(?!\S)|\s",
        ),
    ),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _like_gpt4(r"\p{N}+")), ignore_merges=True),
    "qwen2": _QWEN2_ROW,
    "deepseek-r1-qwen": _QWEN2_ROW,
    "megrez": _QWEN2_ROW,
    "stablelm2": _QWEN2_ROW,
    "hunyuan": _QWEN2_ROW,
    "solar-open": _QWEN2_ROW,
    "grok-2": _QWEN2_ROW,
    "kormo": _QWEN2_ROW,
    "f2llmv2": _QWEN2_ROW,
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", _QWEN2)),
    "ufakzeka": PreTokenizer((_QWEN2.removeprefix(f"{_ANY_CASE}|"),)),
    "exaone-moe": PreTokenizer(
        (
            rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    "qwen35": PreTokenizer((_like_gpt4(r"\p{N}", r"[\p{L}\p{M}]", r"[^\s\p{L}\p{M}\p{N}]"),)),
    "seed-coder": PreTokenizer((_like_gpt4(r"\p{N}", symbol=r"[^\s\p{L}\p{N}\r\n]", after=""),)),
    "bailingmoe": _BAILING_ROW,
    "bailingmoe2": _BAILING_ROW,
    "llada-moe": _BAILING_ROW,
    # o200k_base and its kin
    "gpt-4o": _GPT4O_ROW,
    "llama4": _GPT4O_ROW,
    "kanana2": _GPT4O_ROW,
    "talkie": _GPT4O_ROW,
    "minimax-m2": _GPT4O_ROW,
    "granite-embed-multi-97m": PreTokenizer(_GPT4O_ROW.patterns, ignore_merges=True),
    "tiny_aya": _TINY_AYA_ROW,
    "cohere2moe": _TINY_AYA_ROW,
    "youtu": PreTokenizer((_YOUTU_CJK, _like_o200k(f"(?:{_ANY_CASE})?", r"\p{N}")), ignore_merges=True),
    "tekken": PreTokenizer((_like_o200k("", r"\p{N}"),), ignore_merges=True, add_bos=True),
    "deepseek-v3": _DEEPSEEK3_ROW,
    "hunyuan-dense": _DEEPSEEK3_ROW,
    "joyai-llm": _DEEPSEEK3_ROW,
    "hy_v4": _DEEPSEEK3_ROW,
    "spark2_5": PreTokenizer((*_DEEPSEEK3[:2], _DEEPSEEK3_WORDS + r"|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
            r"\s+$",
            "[一-龥\u0800-一가-\ud7ff]+",
            r"\p{N}+",
        ),
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+", r"\p{N}"),
    ),
    "poro-chat": PreTokenizer((_BLOOM,)),
    "bloom": PreTokenizer((_BLOOM,)),
    "gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    # SentencePiece's BPE by its merges
    "gemma4": _GEMMA4_ROW,
    "granite-embed-multi-311m": _GEMMA4_ROW,
    "sarvam-moe": _VISIBLE_ROW,
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """UnsupportedModel for a name that is not in the table: a guess would corrupt every prompt unnoticed."""
    row = PRE_TOKENIZERS.get(name)
    if row is None:
        shown = name[:64] if name.isprintable() else ascii(name[:64])
        raise UnsupportedModel(
            f"tokenizer.ggml.pre is {shown!r}, a pre-tokenizer that this version does not know; "
            "update, or take a conversion of the model that names a known one"
        )
    return row


# texts that tell the rows of the table apart
PROBES = (
    "Hello, World! It's 'S we'LL don't 'Tis they'VE I'M y'all'd've rock'n'roll TÜRKÇE'nin",
    "0 12 123 1234 12345 123456 1234567 a1b22c333 12.5 1,000,000 ٣٤٥٦ Ⅻ½ ²³ x1234y",
    "  12   345    6 a  7\n\n  8 x'tis l'sx Ankara'dan I'mx don'tx",
    "  two   three    four \n one\n\ntwo\r\n \r\n three\t\ttab \n  x   \n\n\n",
    "camelCase XMLHttpRequest snake_case SCREAMING éÉcole ÀB Ǆaǅ",
    "!!! ?? ... --- === +++ <<>> $$ ^^ ~~ || `` ,;: (a) [b] {c} a/b//c /// !\n\n ?\r\n .a #b _c $d -e \"f' =g",
    "中文文本，没有空格。日本語のテキスト カタカナ 한국어 텍스트 ㄱㄴ ㄅㄆ กขค ລາວ ខ្មែរ",
    "हिन्दी நமிழ் ไม่มี cafe\u0301 e\u0301\u0302 \u0301x \u20e3 a\u0301b",
    "👋👩\u200d👩 ©®™ €£¥ \xa0x\u3000y\u2003z \u200bq \ufeffr\x00s",
    "…。，、।۔،。 (s|.,!?) « » “a” ‘b’ – —",
    " " * 1100 + "x",
    " " * 70 + "\n" * 3 + " " * 9,
    "    \n\n    a \n b",
    "<sentinel:12> IMGIMGABCZ IMGIMGABCDEFZ",
    "a b c d 가 나 다 e f",
)
_SHOWN_STEPS = 200


def name_of(pre_tokenizer: dict[str, Any] | None, ignore_merges: bool) -> str:
    """The name of the row that splits as the `pre_tokenizer` of a byte-level tokenizer.json does.

    UnsupportedModel where no row does.
    """
    theirs = _pieces(pre_tokenizer)
    for name, row in PRE_TOKENIZERS.items():
        if row.visible_spaces or row.ignore_merges != ignore_merges:
            continue
        if _own_pieces(row) == theirs:
            return name
    shown = msgspec.json.encode(pre_tokenizer).decode()
    raise UnsupportedModel(f"no pre-tokenizer that GGUF can name splits as {shown[:_SHOWN_STEPS]}")


@cache
def _own_pieces(row: PreTokenizer) -> list[list[str]]:
    return _pieces({"type": "Sequence", "pretokenizers": [*map(split, row.patterns), byte_level()]})


def _pieces(pre_tokenizer: dict[str, Any] | None) -> list[list[str]]:
    """How the probes are split, in byte-level characters."""
    from tokenizers import Tokenizer

    empty: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        steps = Tokenizer.from_str(msgspec.json.encode(empty).decode()).pre_tokenizer
    except Exception as error:  # the library raises bare Exception
        raise UnsupportedModel(f"its pre_tokenizer cannot be used: {str(error)[:200]}") from error
    if steps is None:
        raise UnsupportedModel("there is no pre_tokenizer")
    return [[piece for piece, _ in steps.pre_tokenize_str(text)] for text in PROBES]
