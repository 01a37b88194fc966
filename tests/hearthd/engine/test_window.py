from __future__ import annotations

import pytest

from hearthd.engine.window import PromptTooLong, fitted, num_dropped, num_kept


@pytest.mark.parametrize(
    ("num_keep", "add_bos", "kept"),
    [(0, False, 0), (0, True, 1), (4, True, 5), (-1, False, 10), (-1, True, 10), (15, True, 15), (10**18, False, 15)],
)
def test_num_keep_is_counted_beside_bos_and_leaves_room(num_keep: int, add_bos: bool, kept: int) -> None:
    assert num_kept(num_keep, prompt_length=10, add_bos=add_bos, num_ctx=16) == kept


@pytest.mark.parametrize(("kept", "dropped"), [(0, 8), (4, 6), (5, 5), (14, 1), (15, 1)])
def test_half_of_what_is_not_kept_makes_room(kept: int, dropped: int) -> None:
    assert num_dropped(kept, 16) == dropped


def test_a_prompt_that_leaves_a_position_free_is_as_it_was() -> None:
    assert fitted(list(range(15)), num_ctx=16, kept=4, truncate=False) == list(range(15))


def test_a_prompt_that_fills_the_window_keeps_its_front_and_its_end() -> None:
    assert fitted(list(range(100)), num_ctx=16, kept=4, truncate=True) == [0, 1, 2, 3, 94, 95, 96, 97, 98, 99]
    assert fitted(list(range(16)), num_ctx=16, kept=15, truncate=True) == list(range(15))


@pytest.mark.parametrize("num_ctx", [1, 2, 3, 4])
def test_in_the_smallest_windows_a_token_remains_and_one_has_room(num_ctx: int) -> None:
    for kept in range(num_ctx):
        ids = fitted(list(range(9)), num_ctx=num_ctx, kept=kept, truncate=True)
        assert 1 <= len(ids) <= max(num_ctx - 1, 1)


def test_without_truncate_a_prompt_that_fills_the_window_is_refused() -> None:
    with pytest.raises(PromptTooLong, match="longer than the context length currently available"):
        fitted(list(range(16)), num_ctx=16, kept=4, truncate=False)
