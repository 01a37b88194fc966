from __future__ import annotations

import random

import pytest

from hearthd.memory import Memory, Scope
from hearthd.scheduler.placement import (
    Evict,
    Load,
    Plan,
    Refuse,
    Resident,
    Wait,
    budget,
    low_bytes,
    plan,
    reserve_bytes,
    spare_bytes,
    usable_bytes,
)

GIB = 1 << 30


def resident(
    key: str, keep_alive_ns: int = 300, *, busy: bool = False, size: int = GIB, held: int | None = None
) -> Resident:
    held = size if held is None else held
    return Resident(key=key, name=key, keep_alive_ns=keep_alive_ns, busy=busy, size_bytes=size, held_bytes=held)


def planned(
    *residents: Resident, needed: int = GIB, available: int | None = 100 * GIB, max_loaded: int = 3, spare: int = 0
) -> Plan:
    return plan(residents, needed_bytes=needed, available_bytes=available, max_loaded=max_loaded, spare_bytes=spare)


def test_an_empty_machine_loads() -> None:
    assert planned() == Load()


def test_a_model_beside_others_must_leave_a_tenth_of_the_free_memory() -> None:
    assert planned(resident("a"), needed=89, available=100) == Load()
    assert planned(resident("a"), needed=91, available=100) == Evict("a")


def test_alone_it_may_take_all_free_memory() -> None:
    assert planned(needed=100, available=100) == Load()


def test_what_no_eviction_makes_fit_is_refused_with_both_figures() -> None:
    assert planned(needed=101, available=100) == Refuse(101, 100)
    assert planned(resident("a", size=50), needed=151, available=100) == Refuse(151, 150)


def test_a_refused_model_evicts_nobody_and_a_fitting_one_does() -> None:
    assert planned(resident("a", size=50), needed=150, available=100) == Evict("a")


def test_unknown_memory_is_no_reason() -> None:
    assert planned(resident("a"), needed=1 << 60, available=None) == Load()


@pytest.mark.parametrize(("max_loaded", "want"), [(1, Evict("a")), (2, Load()), (0, Load())])
def test_the_number_of_models_is_bounded_unless_zero(max_loaded: int, want: Plan) -> None:
    assert planned(resident("a"), max_loaded=max_loaded) == want


def test_the_idle_model_of_the_shortest_keep_alive_goes_first() -> None:
    models = [resident("busy", 1, busy=True), resident("long", 500), resident("short", 100)]
    assert planned(*models) == Evict("short")


def test_equal_keep_alives_go_by_name() -> None:
    assert planned(resident("b"), resident("a"), resident("c")) == Evict("a")


def test_when_all_are_busy_the_shortest_is_waited_for() -> None:
    models = [resident("long", 500, busy=True), resident("short", 100, busy=True)]
    assert planned(*models, max_loaded=2) == Wait("short")


def test_no_more_models_are_evicted_than_make_room() -> None:
    models = [resident("small", 1, size=5), resident("large", 2, size=60)]
    assert planned(*models, needed=50, available=10) == Evict("large")
    assert planned(*models, needed=12, available=12) == Evict("small")


def test_an_idle_model_stays_while_a_busy_one_must_be_waited_for() -> None:
    models = [resident("idle", size=20), resident("busy", size=60, busy=True)]
    assert planned(*models, needed=80, available=10) == Wait("busy")


def test_an_idle_model_that_makes_room_goes_before_any_busy_one_is_waited_for() -> None:
    models = [resident("idle", 900, size=60), resident("busy", 1, size=60, busy=True)]
    assert planned(*models, needed=50, available=10) == Evict("idle")


def test_beside_others_the_spare_memory_stays_free_and_alone_it_does_not() -> None:
    assert planned(resident("a", size=10), needed=70, available=100, spare=30) == Load()
    assert planned(resident("a", size=10), needed=71, available=100, spare=30) == Evict("a")
    assert planned(needed=71, available=100, spare=30) == Load()


def test_budget_is_what_the_system_has_left_less_what_loaded_models_have_not_taken_yet() -> None:
    models = [resident("full", size=300, held=300), resident("fresh", size=200, held=50)]
    assert budget(1000, models) == 850


def test_budget_of_a_setting_is_what_loaded_models_leave_of_it() -> None:
    models = [resident("a", size=300, held=300)]
    assert budget(1000, models, memory_bytes=500) == 200
    assert budget(100, models, memory_bytes=500) == 100
    assert budget(None, models, memory_bytes=500) == 200


def test_budget_of_a_machine_that_does_not_tell_is_unknown() -> None:
    assert usable_bytes(Memory((Scope("the machine", 0, 0),))) is None
    assert budget(None, [resident("a")]) is None


def test_model_that_took_more_than_foreseen_promises_nothing() -> None:
    assert budget(1000, [resident("a", size=100, held=150)]) == 1000


@pytest.mark.parametrize(
    ("total", "reserve", "low"),
    [
        (256 << 20, 64 << 20, 64 << 20),
        (GIB, 64 << 20, 128849018),
        (2 * GIB, 107374182, 257698037),
        (64 * GIB, GIB // 2, GIB),
    ],
)
def test_reserve_and_low_mark_are_shares_within_bounds(total: int, reserve: int, low: int) -> None:
    assert (reserve_bytes(total), low_bytes(total)) == (reserve, low)


def test_usable_memory_is_that_of_the_tightest_scope_without_its_reserve() -> None:
    memory = Memory((Scope("the machine", 8 * GIB, 5 * GIB), Scope("cgroup /a", GIB // 2, GIB // 4)))
    assert usable_bytes(memory) == GIB // 4 - (64 << 20)
    assert usable_bytes(Memory((Scope("the machine", GIB, 1),))) == 0


def test_spare_memory_is_what_lies_between_reserve_and_low_mark() -> None:
    memory = Memory((Scope("the machine", 2 * GIB, 0), Scope("cgroup /a", GIB // 4, 0)))
    assert spare_bytes(memory) == 257698037 - 107374182


def test_spare_memory_of_a_roomy_machine_is_not_asked_of_a_small_cgroup_on_it() -> None:
    memory = Memory((Scope("the machine", 24 * GIB, 23 * GIB), Scope("cgroup /a", GIB // 2, GIB // 3)))
    assert spare_bytes(memory) == low_bytes(GIB // 2) - reserve_bytes(GIB // 2)


@pytest.mark.parametrize("seed", range(60))
def test_following_the_plan_ends_in_a_load_or_in_a_refusal_that_evicted_nobody(seed: int) -> None:
    rng = random.Random(seed)
    residents = [
        resident(f"m{n}", rng.randrange(5), busy=rng.random() < 0.5, size=rng.randrange(1, 50))
        for n in range(rng.randrange(6))
    ]
    available, needed, max_loaded = rng.randrange(1, 100), rng.randrange(1, 200), rng.randrange(4)
    spare = rng.randrange(3) * 10
    evicted: list[str] = []
    while True:
        act = planned(*residents, needed=needed, available=available, max_loaded=max_loaded, spare=spare)
        if isinstance(act, Load | Refuse):
            break
        [victim] = [model for model in residents if model.key == act.key]
        assert victim.busy is isinstance(act, Wait)
        residents.remove(victim)
        evicted.append(victim.key)
        available += victim.size_bytes
    if isinstance(act, Refuse):
        assert not evicted
    else:
        assert needed <= available
        assert max_loaded == 0 or len(residents) < max_loaded
