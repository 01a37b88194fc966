from __future__ import annotations

from hearthd.engine.guard import MAX_EQUAL_PIECES, RepeatGuard


def first_loop(pieces: list[str]) -> int | None:
    """The place of the first piece that is taken for a loop."""
    guard = RepeatGuard()
    return next((place for place, piece in enumerate(pieces) if guard.loops(piece)), None)


def test_one_more_than_the_allowed_equal_pieces_is_a_loop() -> None:
    assert first_loop(["a"] * MAX_EQUAL_PIECES) is None
    assert first_loop(["b", *["a"] * 99]) == 1 + MAX_EQUAL_PIECES


def test_blanks_around_a_piece_do_not_count() -> None:
    assert first_loop([" a", "a ", "\na"] * 20) == MAX_EQUAL_PIECES


def test_blanks_alone_are_equal_whatever_they_are() -> None:
    assert first_loop([" ", "\n", "\t\t"] * 20) == MAX_EQUAL_PIECES


def test_another_piece_begins_the_count_anew() -> None:
    assert first_loop([*["a"] * MAX_EQUAL_PIECES, "b"] * 3) is None
    assert first_loop(["a", "b"] * 100) is None
