from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hearthd.engine.session import open_session
from hearthd.engine.weights import parse_regions, read_in
from hearthd.store.variant import read_variant

SMAPS = """\
55d0c0a00000-55d0c0b00000 rw-p 00000000 00:00 0                          [heap]
Size:               1024 kB
Rss:                 900 kB
7f0000000000-7f0000002000 r--s 00001000 fe:00 2343295                    /models/with a space/model.onnx.data
Size:                  8 kB
Rss:                   4 kB
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
Rss:                   0 kB
VmFlags: rd wr mr mw me ac sd
"""


def test_regions_are_read_from_smaps() -> None:
    heap, shared, anonymous = parse_regions(SMAPS)
    assert (heap.address, heap.size_bytes, heap.resident_bytes) == (0x55D0C0A00000, 1 << 20, 900 << 10)
    assert (heap.path, heap.is_private) == ("[heap]", True)
    assert (shared.path, shared.is_private) == ("/models/with a space/model.onnx.data", False)
    assert (anonymous.path, anonymous.is_private) == ("", True)


def overwrite(path: Path) -> None:
    """In place: a file that is cut takes even private pages with it."""
    with path.open("r+b") as file:
        file.write(b"b" * mmap.PAGESIZE)


def test_what_was_read_in_no_longer_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * mmap.PAGESIZE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        read_in(tmp_path)
        overwrite(path)
        assert mapping[:4] == b"aaaa"


def test_other_files_stay_mapped(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * mmap.PAGESIZE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        read_in(tmp_path / "elsewhere")
        overwrite(path)
        assert mapping[:4] == b"bbbb"


def test_mappings_that_others_let_go_meanwhile_are_passed_over(tmp_path: Path) -> None:
    paths = [tmp_path / f"weights-{number}" for number in range(400)]
    mappings: list[mmap.mmap] = []
    for path in paths:
        path.write_bytes(b"a" * mmap.PAGESIZE)
        with path.open("r+b") as file:
            mappings.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_in, tmp_path)
        while not reading.done() and mappings:
            mappings.pop(len(mappings) // 2).close()
        reading.result()


def test_weights_that_were_read_in_give_the_same_logits(tiny_variant: Path) -> None:
    info = read_variant(tiny_variant)
    assert info is not None
    session = open_session(tiny_variant, info, num_ctx=64)
    session.evaluate([5, 6, 7])
    before = session.logits.copy()
    read_in(tiny_variant)
    session.evaluate([5, 6, 7])
    np.testing.assert_array_equal(session.logits, before)


@pytest.mark.parametrize("text", ["", "garbage\n", "Rss: 4 kB\n"])
def test_a_text_without_regions_has_none(text: str) -> None:
    assert list(parse_regions(text)) == []
