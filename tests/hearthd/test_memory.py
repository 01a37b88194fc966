from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hearthd.memory import (
    Memory,
    Pressure,
    Scope,
    anonymous_bytes,
    read_memory,
    read_pressure,
    rss_bytes,
    tree_rss_bytes,
)

MEMINFO = "MemTotal:       4000 kB\nMemFree:         100 kB\nMemAvailable:   1000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose process is in the cgroup /a/b."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text("1:name=systemd:/x\n0::/a/b\n")
    (tmp_path / "cgroup" / "a" / "b").mkdir(parents=True)
    return tmp_path


def limit(group: Path, limit: str, current: int, **stat: int) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in {"anon": 5, **stat}.items()))


@pytest.fixture
def v1_machine(machine: Path) -> Path:
    """As `machine`, with the memory controller in the old hierarchy, as the group /c/d."""
    (machine / "proc" / "self" / "cgroup").write_text("4:cpu,memory:/c/d\n0::/a/b\n")
    (machine / "cgroup" / "memory" / "c" / "d").mkdir(parents=True)
    return machine


def v1_limit(group: Path, limit: int, usage: int, **stat: int) -> None:
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (group / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in {"cache": 5, **stat}.items()))


def read(machine: Path) -> Memory:
    return read_memory(machine / "proc", machine / "cgroup")


def figures(machine: Path) -> tuple[int, int, int | None]:
    memory = read(machine)
    return memory.total_bytes, memory.available_bytes, memory.limit_bytes


def pressure(machine: Path) -> Pressure:
    return read_pressure(machine / "proc", machine / "cgroup")


def test_machine_without_limits_has_what_meminfo_says(machine: Path) -> None:
    assert figures(machine) == (4000 << 10, 1000 << 10, None)
    limit(machine / "cgroup" / "a" / "b", "max", 5)
    assert figures(machine) == (4000 << 10, 1000 << 10, None)


def test_tightest_cgroup_of_all_ancestors_cuts_what_is_available(machine: Path) -> None:
    limit(machine / "cgroup" / "a" / "b", "max", 1)
    limit(machine / "cgroup" / "a", str(500 << 10), 400 << 10)
    assert figures(machine) == (4000 << 10, 100 << 10, 500 << 10)
    assert read(machine).scopes[1] == Scope("cgroup /a", 500 << 10, 100 << 10)


def test_high_mark_of_a_cgroup_is_a_limit(machine: Path) -> None:
    limit(machine / "cgroup" / "a", "max", 40 << 10)
    (machine / "cgroup" / "a" / "memory.high").write_text(f"{90 << 10}\n")
    assert figures(machine) == (4000 << 10, 50 << 10, 90 << 10)


def test_page_cache_that_can_be_dropped_counts_as_available(machine: Path) -> None:
    cache = {"inactive_file": 200 << 10, "active_file": 100 << 10}
    limit(machine / "cgroup" / "a" / "b", str(500 << 10), 400 << 10, **cache)
    assert read(machine).available_bytes == 400 << 10


def test_exceeded_limit_leaves_nothing(machine: Path) -> None:
    limit(machine / "cgroup" / "a" / "b", "10", 20)
    assert read(machine).available_bytes == 0


def test_limits_of_the_old_hierarchy_count(v1_machine: Path) -> None:
    cache = {"total_inactive_file": 100 << 10, "total_active_file": 50 << 10, "inactive_file": 7, "active_file": 7}
    v1_limit(v1_machine / "cgroup" / "memory" / "c", 500 << 10, 400 << 10, **cache)
    v1_limit(v1_machine / "cgroup" / "memory" / "c" / "d", 9223372036854771712, 400 << 10)
    assert read(v1_machine).scopes[1:] == (Scope("cgroup /c", 500 << 10, 250 << 10),)


def test_limit_of_an_ancestor_that_a_container_hides_counts(v1_machine: Path) -> None:
    own = v1_machine / "cgroup" / "memory" / "c" / "d"
    v1_limit(own, 9223372036854771712, 100 << 10, hierarchical_memory_limit=300 << 10)
    assert figures(v1_machine) == (4000 << 10, 200 << 10, 300 << 10)


@pytest.mark.parametrize("path", ["/docker/0123", "/../outside"])
def test_group_that_a_container_does_not_show_is_the_root_that_it_shows(machine: Path, path: str) -> None:
    (machine / "proc" / "self" / "cgroup").write_text(f"0::{path}\n")
    limit(machine / "cgroup", str(500 << 10), 400 << 10)
    assert read(machine).scopes[1:] == (Scope("cgroup /", 500 << 10, 100 << 10),)


def test_unreadable_proc_reads_as_zero(tmp_path: Path) -> None:
    assert figures(tmp_path) == (0, 0, None)


def test_this_machine_has_memory() -> None:
    memory = read_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes


def test_machine_that_tells_no_pressure_has_none(tmp_path: Path) -> None:
    assert read_pressure(tmp_path, tmp_path) == Pressure(None, None, None)


def test_pressure_is_the_worse_of_machine_and_cgroup(machine: Path) -> None:
    (machine / "proc" / "pressure").mkdir()
    stalls = "some avg10={} avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    (machine / "proc" / "pressure" / "memory").write_text(stalls.format("1.50"))
    assert pressure(machine).some_avg10 == 1.5
    (machine / "cgroup" / "a" / "b" / "memory.pressure").write_text(stalls.format("12.25"))
    assert pressure(machine).some_avg10 == 12.25


def test_kills_and_hits_of_the_limit_are_the_own_groups(machine: Path) -> None:
    (machine / "proc" / "vmstat").write_text("pgfault 8\noom_kill 9\n")
    assert pressure(machine) == Pressure(None, 9, None)
    (machine / "cgroup" / "a" / "b" / "memory.events").write_text("low 0\nhigh 3\nmax 4\noom 2\noom_kill 1\n")
    assert pressure(machine) == Pressure(None, 1, 7)


@pytest.fixture
def caged_machine(machine: Path) -> Path:
    """As `machine`, with the daemon in a cage: the service is /a/b."""
    (machine / "proc" / "self" / "cgroup").write_text("0::/a/b/daemon\n")
    for name in ("daemon", "runners", "jobs"):
        (machine / "cgroup" / "a" / "b" / name).mkdir()
    return machine


def test_from_a_cage_limits_of_the_service_and_of_its_runners_are_seen(caged_machine: Path) -> None:
    unit = caged_machine / "cgroup" / "a" / "b"
    limit(unit / "daemon", "max", 1)
    limit(unit / "runners", str(300 << 10), 100 << 10)
    limit(unit, str(500 << 10), 400 << 10)
    assert read(caged_machine).scopes[1:] == (
        Scope("cgroup /a/b/runners", 300 << 10, 200 << 10),
        Scope("cgroup /a/b", 500 << 10, 100 << 10),
    )


def test_from_a_cage_kills_are_those_of_the_whole_service_and_hits_of_cells_do_not_count(caged_machine: Path) -> None:
    unit = caged_machine / "cgroup" / "a" / "b"
    (unit / "daemon" / "memory.events").write_text("high 0\nmax 0\noom 0\noom_kill 0\n")
    (unit / "memory.events").write_text("high 0\nmax 90\noom 1\noom_kill 2\n")
    (unit / "memory.events.local").write_text("high 0\nmax 3\noom 0\noom_kill 0\n")
    (unit / "runners" / "memory.events.local").write_text("high 4\nmax 0\noom 0\noom_kill 0\n")
    assert pressure(caged_machine) == Pressure(None, 2, 7)


def test_stalls_of_all_that_a_caged_service_runs_are_seen(caged_machine: Path) -> None:
    stalls = "some avg10=12.25 avg60=0.00 avg300=0.00 total=5\n"
    (caged_machine / "cgroup" / "a" / "b" / "memory.pressure").write_text(stalls)
    assert pressure(caged_machine).some_avg10 == 12.25


def test_kills_and_hits_are_found_in_the_old_hierarchy(v1_machine: Path) -> None:
    own = v1_machine / "cgroup" / "memory" / "c" / "d"
    (own / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (own / "memory.failcnt").write_text("31\n")
    assert pressure(v1_machine) == Pressure(None, 2, 31)


def test_anonymous_bytes_leave_out_the_pages_of_files() -> None:
    assert 0 < anonymous_bytes(os.getpid()) < rss_bytes(os.getpid())
    assert anonymous_bytes(0) == 0


def test_tree_counts_children_and_forgets_the_dead() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        parent.stdout.readline()  # the grandchild runs
        assert tree_rss_bytes(parent.pid) > rss_bytes(parent.pid) > 1 << 20
        assert tree_rss_bytes(os.getpid()) > tree_rss_bytes(parent.pid)
        parent.stdin.write("\n")
        parent.stdin.flush()
    assert tree_rss_bytes(parent.pid) == 0
