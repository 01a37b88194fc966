from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from hearthd.engine.stops import StopMatcher


def run(pieces: Iterable[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.feed(piece)
        if matcher.stopped:
            return shown, True
    return shown + matcher.flush(), False


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The same by brute force: the first end at which a stop is complete, then the longest such stop."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


def test_text_before_a_stop_split_over_pieces_is_kept() -> None:
    assert run(["Hello\nUs", "er", ": hi"], ["\nUser:"]) == ("Hello", True)


def test_text_that_only_begins_a_stop_is_released_once_it_is_decided() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the EN") == "the "
    assert matcher.feed("emy") == "ENemy"
    assert not matcher.stopped


def test_held_text_is_released_at_the_end() -> None:
    assert run(["almost EN"], ["END"]) == ("almost EN", False)


def test_without_stops_text_passes_unchanged() -> None:
    assert run(["a", "b"], []) == ("ab", False)


def test_an_empty_stop_is_ignored() -> None:
    assert run(["ab"], [""]) == ("ab", False)


def test_of_two_stops_complete_at_once_the_longer_is_cut() -> None:
    assert run(["say <|im_end|>"], [">", "<|im_end|>"]) == ("say ", True)


@pytest.mark.parametrize("seed", range(20))
def test_any_split_of_a_text_ends_as_the_brute_force_search_says(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        text = "".join(rng.choice("aab") for _ in range(rng.randrange(30)))
        stops = ["".join(rng.choice("ab") for _ in range(rng.randrange(1, 6))) for _ in range(rng.randrange(4))]
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(5))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert run(pieces, stops) == expected(text, stops), (pieces, stops)


def test_a_long_repetitive_stop_costs_linear_work() -> None:
    # a quadratic search would compare 10^10 characters here and not come back
    matcher = StopMatcher(["a" * 100_000 + "b"])
    shown = "".join(matcher.feed("a" * 1000) for _ in range(200))
    assert len(shown) + len(matcher.flush()) == 200_000
