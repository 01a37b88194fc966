from __future__ import annotations

import ctypes
import mmap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hearthd.engine import serving, trimming
from hearthd.engine.frames import Leave
from hearthd.engine.session import open_session
from hearthd.store.variant import read_variant

NUM_PAGES = 64
PAGES_BYTES = NUM_PAGES * mmap.PAGESIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * PAGES_BYTES)
    return path


def mapped(path: Path) -> mmap.mmap:
    """The file, privately and writable, every page read once."""
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    assert mapping[:: mmap.PAGESIZE] == b"a" * NUM_PAGES
    return mapping


def pages_in_use(mapping: mmap.mmap) -> int:
    """How many pages of the mapping this process holds."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        entries.seek(address // mmap.PAGESIZE * 8)
        return int((np.frombuffer(entries.read(NUM_PAGES * 8), np.uint64) >> np.uint64(63)).sum())


def test_pages_that_a_file_can_give_again_leave_the_process(path: Path) -> None:
    mapping = mapped(path)
    assert pages_in_use(mapping) == NUM_PAGES
    trimming.trim()
    assert pages_in_use(mapping) == 0


def test_what_left_comes_back_from_the_file(path: Path) -> None:
    mapping = mapped(path)
    trimming.trim()
    assert mapping[:] == b"a" * PAGES_BYTES


def test_pages_that_were_written_to_stay_as_they_are(path: Path) -> None:
    mapping = mapped(path)
    mapping[5 * mmap.PAGESIZE] = ord("b")
    mapping[-1] = ord("c")
    trimming.trim()
    assert pages_in_use(mapping) == 2
    assert (mapping[5 * mmap.PAGESIZE], mapping[-1]) == (ord("b"), ord("c"))


def test_locked_pages_stay_in_memory(path: Path) -> None:
    mapping = mapped(path)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapping)))
    libc = ctypes.CDLL(None)
    if libc.mlock(address, PAGES_BYTES):
        pytest.skip("the limit on locked memory is below 256 KiB")
    try:
        trimming.trim()
        assert pages_in_use(mapping) == NUM_PAGES
    finally:
        libc.munlock(address, PAGES_BYTES)


def test_released_bytes_are_those_of_the_pages(path: Path) -> None:
    trimming.trim()
    mapping = mapped(path)
    assert trimming.trim() >= PAGES_BYTES
    assert len(mapping) == PAGES_BYTES


def test_level_one_leaves_files_alone(path: Path) -> None:
    mapping = mapped(path)
    assert trimming.trim(1) == 0
    assert pages_in_use(mapping) == NUM_PAGES


def test_resident_bytes_grow_with_what_is_touched() -> None:
    before = trimming.resident_bytes()
    held = bytearray(64 << 20)
    assert trimming.resident_bytes() - before > 48 << 20
    del held


def test_runner_without_work_gives_pages_back_and_takes_the_next_work(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "IDLE_S", 0.01)
    mapping, inbox, taken = mapped(path), serving.Inbox(), []
    thread = threading.Thread(target=lambda: taken.append(serving.next_work(inbox)))
    thread.start()
    deadline = time.monotonic() + 30
    while pages_in_use(mapping) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pages_in_use(mapping) == 0
    inbox.put(Leave())
    thread.join(30)
    assert taken == [Leave()]


def test_a_trimmed_model_gives_the_same_logits(tiny_variant: Path) -> None:
    info = read_variant(tiny_variant)
    assert info is not None
    session = open_session(tiny_variant, info, num_ctx=64)
    before = session.evaluate([5, 6, 7]).copy()
    trimming.trim()
    np.testing.assert_array_equal(session.evaluate([5, 6, 7]), before)
