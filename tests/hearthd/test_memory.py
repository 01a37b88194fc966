from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hearthd.memory import Memory, read_memory, rss_bytes, tree_rss_bytes

MEMINFO = "MemTotal:       4000 kB\nMemFree:         100 kB\nMemAvailable:   1000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose process is in the cgroup /a/b."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text("1:name=systemd:/x\n0::/a/b\n")
    (tmp_path / "cgroup" / "a" / "b").mkdir(parents=True)
    return tmp_path


def limit(group: Path, limit: str, current: int, inactive: int = 0) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def read(machine: Path) -> Memory:
    return read_memory(machine / "proc", machine / "cgroup")


def test_machine_without_limits_has_what_meminfo_says(machine: Path) -> None:
    assert read(machine) == Memory(4000 << 10, 1000 << 10, None)
    limit(machine / "cgroup" / "a" / "b", "max", 5)
    assert read(machine) == Memory(4000 << 10, 1000 << 10, None)


def test_tightest_cgroup_of_all_ancestors_cuts_what_is_available(machine: Path) -> None:
    limit(machine / "cgroup" / "a" / "b", "max", 1)
    limit(machine / "cgroup" / "a", str(500 << 10), 400 << 10)
    assert read(machine) == Memory(4000 << 10, 100 << 10, 500 << 10)


def test_page_cache_that_can_be_dropped_counts_as_available(machine: Path) -> None:
    limit(machine / "cgroup" / "a" / "b", str(500 << 10), 400 << 10, inactive=300 << 10)
    assert read(machine).available_bytes == 400 << 10


def test_exceeded_limit_leaves_nothing(machine: Path) -> None:
    limit(machine / "cgroup" / "a" / "b", "10", 20)
    assert read(machine).available_bytes == 0


def test_unreadable_proc_reads_as_zero(tmp_path: Path) -> None:
    assert read_memory(tmp_path, tmp_path) == Memory(0, 0, None)


def test_this_machine_has_memory() -> None:
    memory = read_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes


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
