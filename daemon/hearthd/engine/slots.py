"""Which slot of the KV cache a sequence gets, such that least of what was evaluated is lost: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence as Slots
from dataclasses import dataclass

from hearthd.engine.cached import CachedTokens
from hearthd.engine.reading import Reading
from hearthd.engine.sequence import Sequence

COPIED_PER_EVALUATED = 16  # tokens copied from slot to slot for the price of one evaluated, memory counted in


@dataclass(slots=True, eq=False)
class Slot:
    """A sequence's place in the KV cache, and what was evaluated there."""

    index: int  # in the KV cache; changes when slots trade places
    cached: CachedTokens
    sequence: Sequence | Reading | None = None  # that it belongs to
    used: int = 0  # when it was last given to a sequence: a running number
    passed_over: int = 0  # prompt tokens of other sequences evaluated since then


@dataclass(frozen=True, slots=True)
class Choice:
    """A slot for a prompt, whose first `num_reused` tokens are copied from `source` where that is another one."""

    slot: Slot
    source: Slot
    num_reused: int


def choose(slots: Slots[Slot], prompt: list[int], *, exact: bool) -> Choice | None:
    """The slot for `prompt` among those without a sequence; None where all are taken.

    The longest prefix is looked for in all slots. Its own slot is taken where that loses little of what else it
    holds; otherwise the prefix is copied to the slot whose content is worth least: the empty one, else the one unused
    for longest.
    """
    free = [slot for slot in slots if slot.sequence is None]
    if not free:
        return None
    reusable = {id(slot): slot.cached.reusable(prompt, exact=exact) for slot in slots}
    source = max(slots, key=lambda slot: (reusable[id(slot)], slot.sequence is None, slot.used))
    num_reused = reusable[id(source)]
    oldest = least(free)
    if not num_reused or source is oldest:
        return Choice(oldest, oldest, num_reused)
    lost_here = len(source.cached) - num_reused
    lost_there = len(oldest.cached) + num_reused // COPIED_PER_EVALUATED
    if source.sequence is None and lost_here <= lost_there:
        return Choice(source, source, num_reused)
    return Choice(oldest, source, num_reused)


def least(free: Slots[Slot]) -> Slot:
    """The one whose content is worth least: an empty one, else the one unused for longest."""
    return min(free, key=lambda slot: (bool(len(slot.cached)), slot.used))


def next_prefill(slots: Slots[Slot]) -> Slot:
    """Whose prompt goes on: the one with least left, but none waits for more tokens than it has left itself."""

    def rank(slot: Slot) -> tuple[int, int]:
        assert slot.sequence is not None
        return len(slot.sequence.prompt) - len(slot.cached) - slot.passed_over, slot.used

    return min(slots, key=rank)


def trades(slots: Slots[Slot], decoding: Slots[Slot]) -> list[tuple[Slot, Slot]]:
    """The fewest trades of places after which `decoding` occupy the first places."""
    count = len(decoding)
    inside = {id(slot) for slot in decoding}
    outsiders = [slot for slot in slots if slot.index < count and id(slot) not in inside]
    return list(zip([slot for slot in decoding if slot.index >= count], outsiders, strict=True))
