from __future__ import annotations

import pytest

from hearthd.engine.cached import CachedTokens

TILE = 4


def cache(*chunks: list[int]) -> CachedTokens:
    cached = CachedTokens(TILE)
    for chunk in chunks:
        cached.extend(chunk)
    return cached


def numbers(first: int, end: int) -> list[int]:
    return list(range(first, end))


def test_the_longest_common_prefix_is_reusable_but_for_the_last_token() -> None:
    cached = cache(numbers(0, 8), numbers(8, 11))
    assert cached.reusable(numbers(0, 20), exact=False) == 11
    assert cached.reusable(numbers(0, 11), exact=False) == 10
    assert cached.reusable([*numbers(0, 5), 99, *numbers(6, 20)], exact=False) == 5
    assert cached.reusable([77], exact=False) == 0


def test_exactly_reusable_are_whole_tiles_that_leave_two_tokens() -> None:
    cached = cache(numbers(0, 8), numbers(8, 15))
    assert cached.reusable(numbers(0, 20), exact=True) == 12
    assert cached.reusable(numbers(0, 14), exact=True) == 12
    assert cached.reusable(numbers(0, 13), exact=True) == 8
    assert cached.reusable([0], exact=True) == 0


def test_tokens_evaluated_one_by_one_are_never_exact() -> None:
    cached = cache(numbers(0, 4))
    for token in numbers(4, 8):
        cached.append(token)
    cached.extend(numbers(8, 16))
    assert cached.reusable(numbers(0, 20), exact=True) == 4
    assert cached.reusable(numbers(0, 20), exact=False) == 16


def test_tokens_evaluated_from_the_middle_of_a_tile_are_never_exact() -> None:
    cached = cache(numbers(0, 8))
    cached.cut(6)
    cached.extend(numbers(6, 18))
    assert cached.reusable(numbers(0, 20), exact=True) == 4


@pytest.mark.parametrize(("kept", "whole", "exact"), [(0, 0, 0), (5, 5, 4), (8, 8, 8)])
def test_after_a_drop_only_what_was_kept_is_reusable(kept: int, whole: int, exact: int) -> None:
    cached = cache(numbers(0, 16))
    cached.drop(kept, 4)
    held = [*numbers(0, kept), *numbers(kept + 4, 16)]
    assert len(cached) == 12
    assert cached.reusable([*held, 99, 99], exact=False) == whole
    assert cached.reusable([*held, 99, 99], exact=True) == exact


def test_what_is_evaluated_after_a_drop_is_not_reusable_either() -> None:
    cached = cache(numbers(0, 8))
    cached.drop(2, 2)
    cached.append(50)
    cached.extend([51, 52, 53])
    assert cached.reusable([0, 1, 4, 5, 6, 7, 50, 51, 52, 53, 54], exact=False) == 2


def test_what_was_cut_is_gone() -> None:
    cached = cache(numbers(0, 8))
    cached.cut(0)
    assert len(cached) == 0
    assert cached.reusable(numbers(0, 8), exact=False) == 0
