"""Writes SentencePiece model files for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable

UNIGRAM, BPE, WORD = 1, 2, 3


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_file(
    pieces: Iterable[tuple[str, float, int]],
    *,
    model_type: int = BPE,
    trainer: bytes = b"",
    normalizer: bytes = b"",
) -> bytes:
    """A file of pieces (text, score, type); `trainer` and `normalizer` are more fields of their messages."""
    listed = [field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces]
    return b"".join(listed) + field(2, field(3, model_type) + trainer) + field(3, normalizer)
