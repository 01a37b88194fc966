from __future__ import annotations

import random
import struct

import pytest
from tokenizers import normalizers

from hearth_export.charsmap import check_charsmap
from tests.hearth_export.charsmaps import charsmap

REPLACEMENTS = {"Ａ": "A", "ﬁ": "fi", "\t": " ", "\u3000": " ", "\u00ad": "", "é": "é"}


def test_sound_map_is_accepted_and_replaces() -> None:
    raw = charsmap(REPLACEMENTS)
    check_charsmap(raw)
    assert normalizers.Precompiled(raw).normalize_str("Ａﬁ\t\u3000x\u00ad") == "Afi  x"


def with_unit(index: int, value: int) -> bytes:
    raw = bytearray(charsmap(REPLACEMENTS))
    struct.pack_into("<I", raw, 4 + 4 * index, value)
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "0 bytes"),
        (b"\1\0\0", "3 bytes"),
        (struct.pack("<I", 400) + bytes(100), "a trie of 400 bytes in a map of 104"),
        (struct.pack("<I", 3) + bytes(100), "a trie of 3 bytes"),
        (struct.pack("<I", 0) + b"a\0", "a trie of 0 bytes"),
        (charsmap(REPLACEMENTS)[:-1] + b"x", "last replacement does not end"),
        (charsmap(REPLACEMENTS)[:-2] + b"\xff\0", "not UTF-8"),
        (charsmap({"a": "é"})[:-3], "a map of|truncated|last replacement"),
        (with_unit(0, 1 << 30 | 0x200), "its trie leads to unit"),
        (with_unit(0, 0x7FFFFFFF), "its trie leads to unit"),
    ],
)
def test_damaged_map_is_refused(raw: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_charsmap(raw)


def test_replacement_outside_the_texts_or_inside_a_character_is_refused() -> None:
    raw = charsmap({"a": "é"})
    (trie_bytes,) = struct.unpack_from("<I", raw)
    units = list(struct.unpack_from(f"<{trie_bytes // 4}I", raw, 4))
    value = next(index for index, unit in enumerate(units) if unit >> 31)
    for place, expected in ((7, "a replacement at 7 of 3 bytes"), (1, "inside a character")):
        units[value] = place | 1 << 31
        damaged = struct.pack(f"<I{len(units)}I", trie_bytes, *units) + raw[4 + trie_bytes :]
        with pytest.raises(ValueError, match=expected):
            check_charsmap(damaged)


def test_map_with_random_damage_is_refused_or_can_be_walked() -> None:
    rng = random.Random(5)
    sound = charsmap(REPLACEMENTS)
    texts = ["".join(REPLACEMENTS) + "xyz", "".join(map(chr, range(1, 400)))]
    accepted = 0
    for _ in range(300):
        raw = bytearray(sound)
        for _ in range(rng.choice((1, 3, 40))):
            raw[rng.randrange(4, len(raw))] = rng.randrange(256)
        try:
            check_charsmap(bytes(raw))
        except ValueError:
            continue
        accepted += 1
        normalizer = normalizers.Precompiled(bytes(raw))
        for text in texts:
            normalizer.normalize_str(text)
    assert 0 < accepted < 300
