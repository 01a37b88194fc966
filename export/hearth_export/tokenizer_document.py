"""The parts of a Hugging Face tokenizer.json, which the `tokenizers` library reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hearth_export.tokenizer_keys import SPACE

Part = dict[str, Any]


def document(
    *,
    added_tokens: Sequence[Part],
    normalizer: Part | None,
    pre_tokenizer: Part | None,
    post_processor: Part | None,
    decoder: Part,
    model: Part,
) -> bytes:
    """A whole tokenizer.json."""
    parts = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }
    return msgspec.json.encode(parts)


def added_token(index: int, text: str, *, special: bool, strips_left: bool = False, strips_right: bool = False) -> Part:
    """A token whose text is the token wherever it stands."""
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": strips_left,
        "rstrip": strips_right,
        "normalized": False,
        "special": special,
    }


def template(before: Mapping[str, int], after: Mapping[str, int]) -> Part | None:
    """Tokens that `encode(..., add_special_tokens=True)` puts before and after a text; None without any."""
    if not before and not after:
        return None
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    start, end = ([{"SpecialToken": {"id": text, "type_id": 0}} for text in texts] for texts in (before, after))
    ids = {**before, **after}
    return {
        "type": "TemplateProcessing",
        "single": [*start, first, *end],
        "pair": [*start, first, second, *end],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in ids.items()},
    }


def sequence(kind: str, parts: Sequence[Part]) -> Part | None:
    """The parts one after the other: `kind` is "normalizers", "pretokenizers" or "decoders"."""
    return {"type": "Sequence", kind: list(parts)} if parts else None


def split(pattern: str) -> Part:
    """Splits at what the pattern matches and at what lies between; nothing is lost."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern: str, content: str, *, regex: bool = False) -> Part:
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def byte_level() -> Part:
    """Bytes as visible characters; words are split elsewhere."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def spaces_decoder(prefix: bool) -> Part:
    """Visible spaces and byte tokens into text; a leading space goes where encoding has put it."""
    steps: list[Part] = [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {"type": "Sequence", "decoders": [*steps, strip] if prefix else steps}


def bpe(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], **settings: object) -> Part:
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
        "vocab": ids,
        "merges": merges,
    }


def steps(part: Part | None, kind: str) -> list[Part]:
    """The steps of a part that may be a sequence, at any depth."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part[kind] for step in steps(inner, kind)]
