"""Where a new model finds room: a pure plan from what is loaded and what is free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHARE_BESIDE_OTHERS = 0.8  # of the free memory, that a model may need while others are loaded


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, as far as placement looks at it."""

    key: str
    name: str
    keep_alive_ns: int
    busy: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """There is room."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload this idle model, then plan again."""

    key: str


@dataclass(frozen=True, slots=True)
class Wait:
    """All are busy: let this one finish and take no more requests, unload it, then plan again."""

    key: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No eviction makes room."""

    needed_bytes: int
    available_bytes: int


Plan = Load | Evict | Wait | Refuse


def plan(residents: Sequence[Resident], *, needed_bytes: int, available_bytes: int | None, max_loaded: int) -> Plan:
    """The next act to load a model of `needed_bytes` beside `residents`.

    `available_bytes` None: unknown, memory is no reason. `max_loaded` <= 0: the number is no reason. The
    victim is the idle model, else the busy one, of the smallest keep-alive duration, then by name.
    """
    if available_bytes is not None:
        reachable_bytes = available_bytes + sum(resident.size_bytes for resident in residents)
        if needed_bytes > reachable_bytes:
            return Refuse(needed_bytes, reachable_bytes)
    if not residents or _fits(len(residents), needed_bytes, available_bytes, max_loaded):
        return Load()
    victim = min(residents, key=lambda resident: (resident.busy, resident.keep_alive_ns, resident.name))
    return Wait(victim.key) if victim.busy else Evict(victim.key)


def _fits(num_loaded: int, needed_bytes: int, available_bytes: int | None, max_loaded: int) -> bool:
    if 0 < max_loaded <= num_loaded:
        return False
    return available_bytes is None or needed_bytes <= SHARE_BESIDE_OTHERS * available_bytes
