"""How a byte-level BPE vocabulary splits text into words, by the name in `tokenizer.ggml.pre`.

The names and their regexes are those of llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe` and `impl::load`), which in
turn took each regex from the `pre_tokenizer` of the model's own tokenizer.json on Hugging Face. Where llama.cpp only
approximates one (capitals and combining marks in tekken and gpt-4o, spaces beyond ASCII in deepseek-coder), the model's
own stands here. Patterns apply one after the other, each splitting what the one before left whole. They are written for
Oniguruma, which the `tokenizers` library uses.
"""

from __future__ import annotations

import msgspec

from hearth_export.errors import UnsupportedModel


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
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_TAIL}",
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_GPT2_ROW = PreTokenizer((_GPT2,))
_DIGITS_GPT2_ROW = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_ROW = PreTokenizer((_LLAMA3,))
_LLAMA3_BOS_ROW = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2_ROW = PreTokenizer((_QWEN2,))
_DEEPSEEK3_ROW = PreTokenizer(_DEEPSEEK3)
_GPT4O_ROW = PreTokenizer((_like_o200k(f"(?:{_ANY_CASE})?", r"\p{N}{1,3}"),))
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
    # the same after single digits
    "smollm": _DIGITS_GPT2_ROW,
    "starcoder": _DIGITS_GPT2_ROW,
    "refact": _DIGITS_GPT2_ROW,
    "command-r": _DIGITS_GPT2_ROW,
    "codeshell": _DIGITS_GPT2_ROW,
    "exaone": _DIGITS_GPT2_ROW,
    "minerva-7b": _DIGITS_GPT2_ROW,
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
    "dbrx": _LLAMA3_ROW,
    "smaug-bpe": _LLAMA3_ROW,
    "glm4": _LLAMA3_ROW,
    "chatglm-bpe": _LLAMA3_ROW,
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _like_gpt4(r"\p{N}+")), ignore_merges=True),
    "qwen2": _QWEN2_ROW,
    "deepseek-r1-qwen": _QWEN2_ROW,
    "megrez": _QWEN2_ROW,
    "stablelm2": _QWEN2_ROW,
    "hunyuan": _QWEN2_ROW,
    "solar-open": _QWEN2_ROW,
    "grok-2": _QWEN2_ROW,
    "qwen35": PreTokenizer((_like_gpt4(r"\p{N}", r"[\p{L}\p{M}]", r"[^\s\p{L}\p{M}\p{N}]"),)),
    "seed-coder": PreTokenizer((_like_gpt4(r"\p{N}", symbol=r"[^\s\p{L}\p{N}\r\n]", after=""),)),
    "bailingmoe": _BAILING_ROW,
    "bailingmoe2": _BAILING_ROW,
    "llada-moe": _BAILING_ROW,
    # o200k_base and its kin
    "gpt-4o": _GPT4O_ROW,
    "llama4": _GPT4O_ROW,
    "kanana2": _GPT4O_ROW,
    "tekken": PreTokenizer((_like_o200k("", r"\p{N}"),), ignore_merges=True, add_bos=True),
    "deepseek-v3": _DEEPSEEK3_ROW,
    "hunyuan-dense": _DEEPSEEK3_ROW,
    "joyai-llm": _DEEPSEEK3_ROW,
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+", r"\p{N}"),
    ),
    "poro-chat": PreTokenizer((_BLOOM,)),
    "bloom": PreTokenizer((_BLOOM,)),
    "gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
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
