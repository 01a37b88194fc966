from __future__ import annotations

import random

import pytest

from hearthd.transfer.extents import Extent, Extents, Parts


def test_neighbours_and_overlaps_become_one() -> None:
    extents = Extents([Extent(10, 20), Extent(30, 40), Extent(20, 25), Extent(35, 50)])
    assert list(extents) == [Extent(10, 25), Extent(30, 50)]
    assert extents.num_bytes == 35


def test_extent_over_several_swallows_them() -> None:
    extents = Extents([Extent(10, 20), Extent(30, 40), Extent(50, 60)])
    extents.add(Extent(15, 55))
    assert list(extents) == [Extent(10, 60)]


def test_empty_extent_adds_nothing() -> None:
    assert list(Extents([Extent(5, 5), Extent(7, 3)])) == []


@pytest.mark.parametrize(
    ("extents", "front"), [([], 0), ([(5, 9)], 0), ([(0, 4), (5, 9)], 4), ([(0, 4), (5, 9), (4, 5)], 9)]
)
def test_front_is_the_end_of_what_has_no_hole(extents: list[tuple[int, int]], front: int) -> None:
    assert Extents(Extent(*extent) for extent in extents).front == front


def test_holes_are_those_within_the_asked_extent() -> None:
    extents = Extents([Extent(10, 20), Extent(30, 40)])
    assert extents.holes(Extent(0, 50)) == [Extent(0, 10), Extent(20, 30), Extent(40, 50)]
    assert extents.holes(Extent(15, 35)) == [Extent(20, 30)]
    assert extents.holes(Extent(12, 18)) == []
    assert extents.holes(Extent(22, 25)) == [Extent(22, 25)]


def test_many_random_extents_match_a_set_of_bytes() -> None:
    rng, size = random.Random(7), 200
    for _ in range(200):
        extents, here = Extents(), set[int]()
        for _ in range(rng.randrange(20)):
            start = rng.randrange(size)
            extent = Extent(start, min(size, start + rng.randrange(30)))
            extents.add(extent)
            here |= set(range(*extent))
        start = rng.randrange(size)
        within = Extent(start, rng.randrange(start, size + 1))
        holes = {byte for hole in extents.holes(within) for byte in range(*hole)}
        assert extents.num_bytes == len(here)
        assert holes == set(range(*within)) - here
        assert all(a.end < b.start for a, b in zip(list(extents), list(extents)[1:], strict=False))


def test_parts_come_from_the_front_and_are_bounded() -> None:
    parts = Parts([Extent(100, 130), Extent(0, 25)])
    assert [parts.take(10) for _ in range(7)] == [
        Extent(0, 10),
        Extent(10, 20),
        Extent(20, 25),
        Extent(100, 110),
        Extent(110, 120),
        Extent(120, 130),
        None,
    ]


def test_part_that_was_given_back_comes_first_again() -> None:
    parts = Parts([Extent(0, 30)])
    first = parts.take(10)
    assert first is not None
    parts.give_back(Extent(4, first.end))
    parts.give_back(Extent(7, 7))
    assert (parts.take(10), parts.take(10)) == (Extent(4, 10), Extent(10, 20))
    assert parts.take_all() == [Extent(20, 30)]
    assert not parts
