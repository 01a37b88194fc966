"""Texts that break tokenizers and detokenizers."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from functools import cache

TRICKY = [
    "", " ", "  ", "\n", "\n\n\n", "\t", "\r\n", " \n \n  x", "x   ", "   x", "a\n\n  b\t\tc \r\n d", " " * 200,
    "\n" * 90, "\t" * 77 + "end", "a" * 300, "ab" * 200, "!" * 120, "hello world", "Hello, World!",
    "I'm you're we'LL they'Ve O'S 'T", "don’t", "'s's'S'ſ", "0", "12", "123", "1234567890" * 3, "3.14159e-10",
    "1,000,000.00", "٣٤٥", "४५६", "ⅫⅣ½¾²³", "①②③", "naïve café résumé", "cafe\u0301 e\u0301\u0302\u0303", "Å Å Å",
    "ﬁ ﬂ ﬀ", "ÉCOLE École école", "ΣΊΣΥΦΟΣ ς", "İstanbul ı", "straße STRASSE ẞ", "日本語のテキスト",
    "中文文本，没有空格。", "한국어 텍스트", "한국어", "ไทยไม\u0e48ม\u0e35ช\u0e48องว\u0e48าง",
    "ह\u093fन\u094dद\u0940 प\u093eठ", "தம\u0bbfழ\u0bcd", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u202eabc\u202c",
    "\u200fRTL\u200e mixed \u0639\u0631\u0628\u064a text", "👋", "👩\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "👍🏽👍🏿", "🇩🇪🇫🇷",
    "\u200b\u200c\u200d\u2060\ufeff", "\xa0\u3000\u2003\u2028\u2029\x85", "\x00", "a\x00b",
    "\x01\x02\x03\x04\x05\x06\x07\x08", "\x0b\x0c\x1b[31m\x7f\x80\x9f", "�", "\ufffe\uffff", "\U0001fffe\U0010ffff",
    "\ue000\uf8ff", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒮𝒸𝓇𝒾𝓅𝓉",
    "Z\u0324\u0354\u0367\u0311\u0313ä\u0356\u032d\u0308\u0307l\u036e\u0312\u036bǧ\u0317\u035a\u031ao\u0319\u0314\u036e\u0307\u0350\u0307",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "for (int i=0;i<n;++i){a[i]^=~b[i]<<3;}",
    '{"key": [1, 2.5, null, true], "ключ": "значение"}', "<html><body class='x'>&amp;</body></html>",
    "SELECT * FROM t WHERE a='b';--", "\\frac{a}{b} $x_1^2$ \\n \\t", "https://example.org/a?b=c&d=%20#e",
    "user@example.com", "C:\\Windows\\System32", "/usr/bin/env",
    "camelCaseXMLHttpRequest snake_case_name SCREAMING_CASE kebab-case", "Ġ Ċ ĉ ▁ <0x0A> <0x41>", "▁▁▁", "_ __ ___",
    "…。，、।\u06d4", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>",
    "<|im_start|><|im_start|>", "<|im_start", "im_start|>", " <|im_end|> ", "<|IM_END|>",
    "<|endoftext|>text<|endoftext|>", "<|im_<|im_end|>start|>", "<file_sep><reponame>a/b<gh_stars>", "<s></s><unk>",
    "?", "�", "\u0300alone", "\u094dvirama", "a\u20e3\ufe0f",
]  # fmt: skip


@cache
def assigned() -> list[list[str]]:
    """The assigned characters of each Unicode category."""
    by_category: dict[str, list[str]] = {}
    for code in range(0x110000):
        by_category.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return [pool for category, pool in by_category.items() if category not in ("Cs", "Cn")]


def fuzzed(count: int, seed: int, pieces: Sequence[str] = ()) -> list[str]:
    """Runs of assigned characters of every Unicode category, mixed with contractions, spaces and `pieces`."""
    rng, pools = random.Random(seed), assigned()
    usual = [
        "'s",
        "'LL",
        "'re",
        " the",
        " and",
        "Hello",
        "12",
        " 345",
        "  ",
        "\n",
        "\n\n",
        ".",
        ", ",
        '"',
        "=",
        "é",
        *pieces,
    ]

    def run() -> str:
        if rng.random() < 0.5:
            return rng.choice(usual)
        pool = rng.choice(pools)
        return "".join(rng.choice(pool) for _ in range(rng.choice((1, 1, 2, 4))))

    return ["".join(run() for _ in range(rng.randint(1, 14))) for _ in range(count)]
