from __future__ import annotations

import random

import pytest

from hearthd.scheduler.placement import Evict, Load, Plan, Refuse, Resident, Wait, plan

GIB = 1 << 30


def resident(key: str, keep_alive_ns: int = 300, *, busy: bool = False, size: int = GIB) -> Resident:
    return Resident(key=key, name=key, keep_alive_ns=keep_alive_ns, busy=busy, size_bytes=size)


def planned(*residents: Resident, needed: int = GIB, available: int | None = 100 * GIB, max_loaded: int = 3) -> Plan:
    return plan(residents, needed_bytes=needed, available_bytes=available, max_loaded=max_loaded)


def test_an_empty_machine_loads() -> None:
    assert planned() == Load()


def test_a_model_beside_others_must_leave_a_fifth_of_the_free_memory() -> None:
    assert planned(resident("a"), needed=79, available=100) == Load()
    assert planned(resident("a"), needed=81, available=100) == Evict("a")


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


@pytest.mark.parametrize("seed", range(30))
def test_following_the_plan_ends_in_a_load_or_in_a_refusal_that_evicted_nobody(seed: int) -> None:
    rng = random.Random(seed)
    residents = [
        resident(f"m{n}", rng.randrange(5), busy=rng.random() < 0.5, size=rng.randrange(1, 50))
        for n in range(rng.randrange(6))
    ]
    available, needed, max_loaded = rng.randrange(1, 100), rng.randrange(1, 200), rng.randrange(4)
    evicted: list[str] = []
    while True:
        act = plan(residents, needed_bytes=needed, available_bytes=available, max_loaded=max_loaded)
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
