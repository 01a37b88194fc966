"""Where a new model finds room: a pure plan from what is loaded and what is free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hearthd.memory import Memory

SHARE_BESIDE_OTHERS = 0.9  # of the budget, that a model may need while others are loaded: needs are known to a tenth
RESERVE_SHARE, MIN_RESERVE_BYTES, MAX_RESERVE_BYTES = 0.05, 64 << 20, 512 << 20  # left to the system by a model alone
LOW_SHARE, MAX_LOW_BYTES = 0.12, 1 << 30  # less than that is short, where several models are loaded


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, as far as placement looks at it."""

    key: str
    name: str
    keep_alive_ns: int
    busy: bool
    size_bytes: int  # all that it may come to need
    held_bytes: int = 0  # of these, taken for good by now; the rest still counts as free with the system


@dataclass(frozen=True, slots=True)
class Load:
    """There is room."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload this idle model, then plan again."""

    key: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Let this busy one finish and take no more requests, unload it, then plan again."""

    key: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No eviction makes room."""

    needed_bytes: int
    available_bytes: int


Plan = Load | Evict | Wait | Refuse


def reserve_bytes(total_bytes: int) -> int:
    """Of a machine or cgroup with so much memory, what models leave to everything else."""
    return min(max(MIN_RESERVE_BYTES, int(RESERVE_SHARE * total_bytes)), MAX_RESERVE_BYTES)


def low_bytes(total_bytes: int) -> int:
    """Of a machine or cgroup with so much memory, what several models leave: below that, one of them is too many."""
    return min(max(MIN_RESERVE_BYTES, int(LOW_SHARE * total_bytes)), MAX_LOW_BYTES)


def usable_bytes(memory: Memory) -> int | None:
    """What models can still take, the reserve left alone; None where the machine does not tell."""
    if not memory.total_bytes:
        return None
    return max(0, min(scope.available_bytes - reserve_bytes(scope.total_bytes) for scope in memory.scopes))


def spare_bytes(memory: Memory) -> int:
    """What a model beside others leaves free in addition to the reserve, so that memory is not low at once."""
    beside = min(scope.available_bytes - low_bytes(scope.total_bytes) for scope in memory.scopes)
    alone = min(scope.available_bytes - reserve_bytes(scope.total_bytes) for scope in memory.scopes)
    return max(0, alone - beside)


def budget(usable: int | None, residents: Iterable[Resident], *, memory_bytes: int = 0) -> int | None:
    """What is left for one more model, in bytes; None: unknown.

    `usable` is what the system has left; what the loaded models were promised and have not taken yet is not free.
    `memory_bytes` is what all models together may need; 0: whatever there is. May be negative.
    """
    residents = list(residents)
    if usable is not None:
        usable -= sum(max(0, resident.size_bytes - resident.held_bytes) for resident in residents)
    if not memory_bytes:
        return usable
    left = memory_bytes - sum(resident.size_bytes for resident in residents)
    return left if usable is None else min(left, usable)


def plan(
    residents: Sequence[Resident],
    *,
    needed_bytes: int,
    available_bytes: int | None,
    max_loaded: int,
    spare_bytes: int = 0,
) -> Plan:
    """The next act to load a model of `needed_bytes` beside `residents`.

    `available_bytes` is the budget, None: unknown, memory is no reason. `max_loaded` <= 0: the number is no reason.
    Beside others the model must leave `spare_bytes` and a share. Victims are idle models, else busy ones, of the
    smallest keep-alive duration, then by name; as few as will do, and busy ones before idle ones where both must go:
    what is idle may serve while they finish.
    """
    reachable_bytes = reachable(residents, available_bytes)
    if reachable_bytes is not None and needed_bytes > reachable_bytes:
        return Refuse(needed_bytes, max(0, reachable_bytes))
    room = _Room(needed_bytes, available_bytes, max_loaded, spare_bytes)
    victims = _victims(residents, room)
    busy = [victim for victim in victims if victim.busy]
    if busy:
        return Wait(busy[0].key)
    return Evict(victims[0].key) if victims else Load()


def reachable(residents: Iterable[Resident], available_bytes: int | None) -> int | None:
    """What is available to one model when all others are gone."""
    if available_bytes is None:
        return None
    return available_bytes + sum(resident.size_bytes for resident in residents)


@dataclass(frozen=True, slots=True)
class _Room:
    needed_bytes: int
    available_bytes: int | None
    max_loaded: int
    spare_bytes: int

    def suffices(self, residents: Sequence[Resident], victims: Sequence[Resident]) -> bool:
        """Whether the model fits when the victims are gone."""
        num_left = len(residents) - len(victims)
        if num_left == 0:
            return True
        if 0 < self.max_loaded <= num_left:
            return False
        if self.available_bytes is None:
            return True
        free_bytes = self.available_bytes + sum(victim.size_bytes for victim in victims)
        return self.needed_bytes <= min(SHARE_BESIDE_OTHERS * free_bytes, free_bytes - self.spare_bytes)


def _victims(residents: Sequence[Resident], room: _Room) -> list[Resident]:
    """Those that must go, first the one to go first; each of them is needed."""
    order = sorted(residents, key=lambda resident: (resident.busy, resident.keep_alive_ns, resident.name))
    count = next(count for count in range(len(order) + 1) if room.suffices(residents, order[:count]))
    victims = order[:count]
    for victim in reversed(order[: max(0, count - 1)]):
        others = [other for other in victims if other is not victim]
        if room.suffices(residents, others):
            victims = others
    return victims
