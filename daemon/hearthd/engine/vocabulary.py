"""What every token of a model says, for those who look for texts among all of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VariantInfo

Ids = NDArray[np.integer[Any]]

BLANKS = b" \t\r\n"


class Vocabulary:
    """The tokens of one model. Ids run to the width of its logits, which may be more than the tokenizer knows."""

    def __init__(self, tokenizer: Tokenizer, info: VariantInfo) -> None:
        self._tokenizer = tokenizer
        self.size = info.vocab_size
        self.eos_ids = np.array([token for token in info.eos_ids if token < self.size], np.int64)

    @cached_property
    def printed(self) -> list[bytes]:
        """By id, the bytes that a token adds to an answer: none for special tokens and those that end it."""
        texts = [self._tokenizer.token_bytes(token) for token in range(self.size)]
        for token in self.eos_ids:
            texts[token] = b""
        return texts

    @cached_property
    def shown(self) -> list[bytes]:
        """By id, the token's bytes, special tokens spelt out."""
        return [self._tokenizer.spelt(token) for token in range(self.size)]

    @cached_property
    def blanks(self) -> Ids:
        """The tokens that print blanks alone."""
        return np.array([token for token, text in enumerate(self.printed) if text and not text.strip(BLANKS)], np.int64)

    @cached_property
    def _by_first(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for token, text in enumerate(self.shown):
            if text:
                found.setdefault(text[0], []).append(token)
        return found

    def along(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """The tokens that go on with `text`, at most beyond its end, each with what it says beyond."""
        for token in self._by_first.get(text[0], ()):
            shown = self.shown[token]
            if text.startswith(shown) or shown.startswith(text):
                yield token, shown[len(text) :]

    def encode(self, text: str) -> list[int]:
        """The model's own tokens for `text` as it stands within an answer; none where they would print another text.

        Some vocabularies put a blank before a text, but not behind a line's end.
        """
        wanted = text.encode("utf-8", "replace")
        for before in ("", "\n"):
            ids = self._tokenizer.encode_plain(before + text)
            texts = [self.printed[token] for token in ids]
            while texts and sum(map(len, texts)) > len(wanted):
                del texts[0], ids[0]
            if b"".join(texts) == wanted:
                return ids
        return []
