"""Prompts of known length of which no two begin alike, so that no prefix cache can help."""

from __future__ import annotations

from pathlib import Path

from bench.workload import PROSE

ENDLESS = "\n\nNumbers from 1 to 9999: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,"  # a small model goes on with it


class Prompts:
    """Pieces of prose that end in a list to go on with, measured with the tokenizer of a converted model."""

    def __init__(self, variant_dir: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(variant_dir / "tokenizer.json"))
        self._ids: list[int] = self._tokenizer.encode(PROSE.read_text()).ids
        self._serial = 0

    def next(self, num_tokens: int, ending: str = ENDLESS) -> str:
        """Another prompt of about so many tokens: a number, prose from another place, `ending`, cut at the end."""
        self._serial += 1
        label = f"{self._serial * 7919 % 9973}. "
        others = self._tokenizer.encode(label + ending).ids
        if len(others) >= num_tokens:
            return str(self._tokenizer.decode(others[:num_tokens]))
        start = 17 * self._serial % (len(self._ids) // 2)
        text = self._ids[start:] + self._ids * (num_tokens // len(self._ids) + 1)
        return label + str(self._tokenizer.decode(text[: num_tokens - len(others)])) + ending
