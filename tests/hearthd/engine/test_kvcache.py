from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from hearthd.engine.kvcache import KVCache, positions
from hearthd.memory import rss_bytes
from tests.variant_info import variant_info

NUM_CTX = 1000
LAYERS, HEADS, DIM = 6, 4, 64


def cache(num_slots: int, num_ctx: int = NUM_CTX, dtype: str = "float32") -> KVCache:
    info = variant_info(num_layers=LAYERS, num_kv_heads=HEADS, head_dim=DIM)
    return KVCache(info, num_ctx, num_slots, dtype)


def resident_bytes() -> int:
    import os

    return rss_bytes(os.getpid())


@pytest.mark.parametrize("page_bytes", [4096, 16384, 65536])
@pytest.mark.parametrize("row_bytes", [192, 768, 1024, 320, 8])
def test_a_slot_fills_whole_pages_with_few_positions_more_than_asked_for(row_bytes: int, page_bytes: int) -> None:
    for num_ctx in (1, 63, 64, 2048, 2049, 131072):
        length = positions(num_ctx, row_bytes, page_bytes)
        assert length * row_bytes % page_bytes == 0
        assert num_ctx <= length < num_ctx + page_bytes


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_slots_that_trade_places_keep_their_content_apart_from_others(dtype: str) -> None:
    held = cache(3, dtype=dtype)
    for index in range(3):
        held.slot(index)[...] = index + 1
    held.swap(0, 2)
    held.swap(1, 0)
    held.swap(1, 1)
    assert [np.unique(held.slot(index)).tolist() for index in range(3)] == [[2], [3], [1]]


def test_the_buffers_of_a_layer_are_where_they_were_after_a_trade() -> None:
    held = cache(2)
    keys = held.of(3, "key")
    held.slot(1)[3, 0, 2, 17] = 5.0
    held.swap(0, 1)
    assert keys.ctypes.data == held.of(3, "key").ctypes.data
    assert (keys[0, 2, 17] == 5.0).all()
    assert not keys[1].any()


def test_a_kernel_that_cannot_move_pages_costs_only_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hearthd.engine.kvcache._move", lambda *arguments: False)
    held = cache(2)
    held.slot(0)[...] = 1
    held.slot(1)[...] = 2
    held.swap(0, 1)
    assert (held.slot(0) == 2).all()
    assert (held.slot(1) == 1).all()


def test_a_copied_prefix_is_the_same_and_no_longer() -> None:
    held = cache(2)
    held.slot(0)[...] = np.random.default_rng(0).standard_normal(held.slot(0).shape, np.float32)
    held.copy(0, 1, 70)
    np.testing.assert_array_equal(held.slot(1)[..., :70, :], held.slot(0)[..., :70, :])
    assert not held.slot(1)[..., 70:, :].any()


def test_a_window_that_nobody_used_costs_no_memory_and_a_released_one_gives_it_back() -> None:
    before = resident_bytes()
    held = cache(4, num_ctx=20_000)  # 983 MB
    assert resident_bytes() - before < 8 << 20
    held.slot(2)[..., :4000, :] = 1  # 49 MB
    used = resident_bytes() - before
    assert 45 << 20 < used < 60 << 20
    held.release(2, 1000)
    assert resident_bytes() - before < used / 2
    assert (held.slot(2)[..., :1000, :] == 1).all()
    held.release(2, 0)
    assert resident_bytes() - before < 8 << 20
    assert not held.slot(2)[..., :1000, :].any()


def test_a_trade_copies_no_memory() -> None:
    held = cache(2, num_ctx=20_000)
    held.slot(0)[..., :4000, :] = 1
    before = resident_bytes()
    held.swap(0, 1)
    assert abs(resident_bytes() - before) < 4 << 20
    assert (held.slot(1)[..., :4000, :] == 1).all()


def test_releasing_less_than_a_page_changes_nothing(tmp_path: Path) -> None:
    held = cache(1)
    held.slot(0)[...] = 3
    rows = mmap.PAGESIZE // (DIM * 4)
    length = held.values.shape[-2]
    held.release(0, length - rows // 2)
    assert (held.slot(0)[..., : length - rows, :] == 3).all()
