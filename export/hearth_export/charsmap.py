"""SentencePiece's precompiled character map, checked before a library walks it.

Layout (sentencepiece, src/normalizer.cc): uint32 number of bytes of a trie; the trie, a Darts-clone double array of
uint32 units; replacement texts in UTF-8, each with a zero byte after it. A unit holds an offset to its children in bits
10 to 30 (times 256 where bit 9 is set), whether it has a value in bit 8, its label in bits 0 to 7; a value has bit 31
set and is the place of a replacement.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 24

_Units = NDArray[np.uint32]
_Places = NDArray[np.int64]


def check_charsmap(raw: bytes) -> None:
    """ValueError tells where the map is truncated, not UTF-8, or leads out of itself."""
    if not 4 <= len(raw) <= MAX_BYTES:
        raise ValueError(f"a map of {len(raw)} bytes; 4 to {MAX_BYTES} are possible")
    (trie_bytes,) = struct.unpack_from("<I", raw)
    if trie_bytes % 4 or not 4 <= trie_bytes < len(raw) - 4:
        raise ValueError(f"a trie of {trie_bytes} bytes in a map of {len(raw)}: it is truncated or damaged")
    units = np.frombuffer(raw, "<u4", trie_bytes // 4, 4)
    _check_replacements(raw[4 + trie_bytes :], _values(units))


def _check_replacements(texts: bytes, places: _Places) -> None:
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("its replacements are not UTF-8") from None
    if texts[-1]:
        raise ValueError("its last replacement does not end: it is truncated or damaged")
    if places.size and places.max() >= len(texts):
        raise ValueError(f"a replacement at {places.max()} of {len(texts)} bytes")
    if (np.frombuffer(texts, np.uint8)[places] & 0xC0 == 0x80).any():
        raise ValueError("a replacement begins inside a character")


def _values(units: _Units) -> _Places:
    """Where replacements begin, of every value that can be reached. ValueError where a child would lie outside."""
    seen = np.zeros(len(units), bool)
    found: list[_Places] = []
    bases = _children(units, np.zeros(1, np.int64))
    labels = np.arange(1, 256, dtype=np.int64)
    while bases.size:
        nodes = (bases[:, None] ^ labels).ravel()
        nodes = np.unique(nodes[units[nodes] & 0x800000FF == np.tile(labels, bases.size)])
        nodes = nodes[~seen[nodes]]
        seen[nodes] = True
        bases = _children(units, nodes)
        has_value = (units[nodes] >> 8 & 1).astype(bool)
        found.append((units[bases[has_value]] & 0x7FFFFFFF).astype(np.int64))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _children(units: _Units, nodes: _Places) -> _Places:
    """Where the children of the nodes lie: each at this place ^ its label."""
    unit = units[nodes].astype(np.int64)
    bases = nodes ^ (((unit & 0x7FFFFFFF) >> 10) << ((unit & 0x200) >> 6))
    outside = bases[bases | 0xFF >= len(units)]
    if outside.size:
        raise ValueError(f"its trie leads to unit {outside[0]} of {len(units)}")
    return bases
