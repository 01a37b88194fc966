from __future__ import annotations

from hearthd.engine.cached import CachedTokens
from hearthd.engine.frames import Generate
from hearthd.engine.sequence import Sequence
from hearthd.engine.slots import Choice, Slot, choose, next_prefill, trades

TILE = 4
SYSTEM = list(range(100, 140))


def slot(index: int, tokens: list[int], used: int = 0, *, busy: bool = False) -> Slot:
    cached = CachedTokens(TILE)
    cached.extend(tokens)
    return Slot(index, cached, Sequence(Generate(index, "")) if busy else None, used)


def chosen(slots: list[Slot], prompt: list[int], *, exact: bool = False) -> Choice:
    choice = choose(slots, prompt, exact=exact)
    assert choice is not None
    return choice


def test_without_a_free_slot_there_is_no_choice() -> None:
    assert choose([slot(0, SYSTEM, busy=True), slot(1, [], busy=True)], SYSTEM, exact=False) is None


def test_an_unknown_prompt_gets_the_empty_slot() -> None:
    slots = [slot(0, SYSTEM, 3), slot(1, [], 9), slot(2, [1, 2, 3], 1)]
    assert chosen(slots, [7, 8, 9]) == Choice(slots[1], slots[1], 0)


def test_an_unknown_prompt_gets_the_slot_unused_for_longest_where_none_is_empty() -> None:
    slots = [slot(0, SYSTEM, 3), slot(1, [5, 6], 1), slot(2, [1, 2, 3], 2)]
    assert chosen(slots, [7, 8, 9]) == Choice(slots[1], slots[1], 0)


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    slots = [slot(0, [], 0), slot(1, [*SYSTEM, 1, 2, 3], 2)]
    assert chosen(slots, [*SYSTEM, 1, 2, 3, 4, 5]) == Choice(slots[1], slots[1], 43)


def test_a_conversation_whose_last_tokens_changed_goes_on_in_its_own_slot() -> None:
    slots = [slot(0, [], 0), slot(1, [*SYSTEM, 1, 2], 2)]
    assert chosen(slots, [*SYSTEM, 9, 9, 9]) == Choice(slots[1], slots[1], 40)


def test_a_shared_beginning_is_copied_where_another_conversation_would_be_lost() -> None:
    conversation = [*SYSTEM, *range(300)]
    slots = [slot(0, conversation, 5), slot(1, [], 0)]
    assert chosen(slots, [*SYSTEM, 7, 7, 7]) == Choice(slots[1], slots[0], 40)


def test_a_shared_beginning_is_copied_over_what_is_worth_least() -> None:
    conversation = [*SYSTEM, *range(300)]
    slots = [slot(0, conversation, 5), slot(1, list(range(500, 600)), 4), slot(2, [1, 2, 3, 4], 1)]
    assert chosen(slots, [*SYSTEM, 7, 7, 7]) == Choice(slots[2], slots[0], 40)


def test_a_running_sequence_lends_its_beginning() -> None:
    slots = [slot(0, [*SYSTEM, 1, 2, 3], 5, busy=True), slot(1, [], 0)]
    assert chosen(slots, [*SYSTEM, 7, 7, 7]) == Choice(slots[1], slots[0], 40)


def test_of_equal_beginnings_the_one_in_a_free_slot_is_taken() -> None:
    slots = [slot(0, SYSTEM, 5, busy=True), slot(1, SYSTEM, 1), slot(2, [], 0)]
    assert chosen(slots, [*SYSTEM, 7, 7, 7]) == Choice(slots[1], slots[1], 40)


def test_a_reproducible_request_takes_whole_tiles_only() -> None:
    slots = [slot(0, [*SYSTEM, 1], 5)]
    assert chosen(slots, [*SYSTEM[:39], 7, 7, 7], exact=True).num_reused == 36


def prompt_slot(index: int, length: int, done: int, passed_over: int = 0) -> Slot:
    place = slot(index, list(range(done)), index, busy=True)
    assert isinstance(place.sequence, Sequence)
    place.sequence.prompt = list(range(length))
    place.passed_over = passed_over
    return place


def test_the_prompt_with_least_left_goes_first_and_of_equal_ones_the_earlier() -> None:
    slots = [prompt_slot(0, 500, 0), prompt_slot(1, 90, 10), prompt_slot(2, 80, 0)]
    assert next_prefill(slots) is slots[1]


def test_a_long_prompt_waits_for_as_many_tokens_as_it_has_left_at_most() -> None:
    slots = [prompt_slot(0, 500, 100, passed_over=360), prompt_slot(1, 40, 0)]
    assert next_prefill(slots) is slots[0]


def test_those_who_decode_come_to_lie_first_with_the_fewest_trades() -> None:
    slots = [slot(index, [], busy=True) for index in range(6)]
    assert trades(slots, [slots[0], slots[1]]) == []
    assert trades(slots, [slots[1], slots[4], slots[0]]) == [(slots[4], slots[2])]
    assert [(one.index, other.index) for one, other in trades(slots, [slots[3], slots[5]])] == [(3, 0), (5, 1)]
