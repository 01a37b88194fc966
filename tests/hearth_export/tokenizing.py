"""Tokenizers as functions from text to ids, and where two of them differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from hearth_export.readers.gguf import open_gguf
from hearth_export.tokenizer import TokenizerFiles, build

Encode = Callable[[str], list[int]]


def encoder(files: TokenizerFiles, *, whole: bool = False) -> Encode:
    """Ids of a text; with `whole` those that are put around it too."""
    tokenizer = Tokenizer.from_buffer(files.json)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=whole).ids)


def differences(ours: Encode, theirs: Encode, texts: Sequence[str]) -> dict[str, object]:
    """Each text that the two encode differently, with what they make of it."""
    pairs = {text: (ours(text), theirs(text)) for text in texts}
    return {text: pair for text, pair in pairs.items() if pair[0] != pair[1]}


def built(path: Path) -> TokenizerFiles:
    """The tokenizer of a GGUF file."""
    with open_gguf(path) as file:
        return build(file)
