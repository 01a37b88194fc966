"""Writes SentencePiece's precompiled character maps for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping


def charsmap(replacements: Mapping[str, str]) -> bytes:
    """The map that puts the values in the place of the keys."""
    texts, places = b"", {}
    for key, value in replacements.items():
        places[key.encode()] = len(texts)
        texts += value.encode() + b"\0"
    units = _trie(places)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


def _trie(places: Mapping[bytes, int]) -> list[int]:
    """A Darts-clone double array: each node's children in a block of 256 units of their own."""
    units = [0] * 256
    pending: list[tuple[int, bytes]] = [(0, b"")]
    while pending:
        node, prefix = pending.pop()
        base = len(units)
        units += [0] * 256
        offset = (node ^ base) >> 8  # in blocks: bit 9 says so
        units[node] |= offset << 10 | 0x200
        labels = sorted({key[len(prefix)] for key in places if key.startswith(prefix) and len(key) > len(prefix)})
        # a node's number must leave its low byte to the labels, so that base ^ label stays in the block
        low = node & 0xFF
        for label in labels:
            child = base ^ low ^ label
            units[child] |= label
            pending.append((child, prefix + bytes([label])))
        if prefix in places:
            units[node] |= 0x100
            units[base ^ low] = places[prefix] | 1 << 31
    return units
