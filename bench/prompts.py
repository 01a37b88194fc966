"""Prompts of known length of which no two begin alike, so that no prefix cache can help."""

from __future__ import annotations

from pathlib import Path

from bench.workload import PROSE


class Prompts:
    """Pieces of prose, measured with the tokenizer of a converted model."""

    def __init__(self, variant_dir: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(variant_dir / "tokenizer.json"))
        self._ids: list[int] = self._tokenizer.encode(PROSE.read_text()).ids
        self._serial = 0

    def next(self, num_tokens: int) -> str:
        """Another prompt of so many tokens: a number, then prose from another place."""
        self._serial += 1
        label = f"{self._serial * 7919 % 9973}. "
        head = self._tokenizer.encode(label).ids
        start = 17 * self._serial % (len(self._ids) // 2)
        text = self._ids[start:] + self._ids * (num_tokens // len(self._ids) + 1)
        return label + str(self._tokenizer.decode(text[: num_tokens - len(head)]))
