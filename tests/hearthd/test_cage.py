from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hearthd.cage import JOBS, RUNNERS, Cage, find, kernel_has_memory
from tests.e2e.daemon import eventually
from tests.service_group import INVOCATION, ServiceGroup, missing, service_group

WHY_NOT = missing()
needs_groups = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
PROGRAM = """
    import json, os, subprocess, sys
    from pathlib import Path
    from hearthd import cage
    def own():
        return Path("/proc/self/cgroup").read_text().splitlines()[-1]
    first = own()
    cage.enter()
    told = {"first": first, "group": own(), "arguments": sys.argv[1:], "why_not": cage.find().why_not}
"""
TELL = "print(json.dumps(told))"


def say(group: ServiceGroup, *arguments: str, program: str = "", settings: dict[str, str] | None = None) -> Any:
    """What a program says that calls `enter` first and then runs `program`, as the service's main process."""
    text = "\n".join(textwrap.dedent(part) for part in (PROGRAM, program, TELL))
    environment = os.environ | (INVOCATION if settings is None else settings)
    command = [*group.wrap(), sys.executable, "-c", text, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# the layout


@needs_groups
def test_a_service_moves_aside_and_begins_anew_as_the_same_process() -> None:
    with service_group() as group:
        told = say(group, "a", "b c")
        assert told["group"] == "0::/daemon"
        assert told["first"] == "0::/daemon"  # it began anew in there
        assert told["arguments"] == ["a", "b c"]
        assert group.groups() == ["daemon", "jobs", "runners"]


@needs_groups
def test_what_was_inherited_stays_open() -> None:
    with service_group() as group:
        ours, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        program = textwrap.dedent(PROGRAM) + f"os.write({theirs}, own().encode())"
        with subprocess.Popen(
            [*group.wrap(), sys.executable, "-c", program], env=os.environ | INVOCATION, pass_fds=[theirs]
        ):
            os.close(theirs)
            assert os.read(ours, 100) == b"0::/daemon"
        os.close(ours)


@needs_groups
def test_a_cgroup_that_nobody_delegated_is_left_alone() -> None:
    with service_group(delegated=False) as group:
        told = say(group)
        assert told["group"] == "0::/"
        assert "no service that its cgroup is delegated to" in told["why_not"]
        assert group.groups() == []


@needs_groups
def test_a_program_that_is_no_service_leaves_a_delegated_cgroup_alone() -> None:
    with service_group() as group:
        told = say(group, settings={})
        assert told["group"] == "0::/"
        assert "could not be made" in told["why_not"]
        assert group.groups() == []


@needs_groups
def test_a_cgroup_with_other_processes_is_left_alone() -> None:
    with service_group() as group, subprocess.Popen([*group.wrap(), "sleep", "60"]) as other:
        while other.pid not in group.pids(""):
            assert other.poll() is None
        told = say(group)
        assert told["group"] == "0::/"
        assert group.groups() == []
        group.kill()


def test_where_there_is_no_cage_the_sentence_says_why() -> None:
    cage = find()
    assert cage.why_not.startswith("runners have no ")
    cell = cage.cell("runner", 1 << 30, among=RUNNERS)
    assert cell.limit_bytes is None
    command = cell.wrap([sys.executable, "-c", "print(open('/proc/self/oom_score_adj').read())"])
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == 500
    cell.close()
    assert not cell.outgrown


# cells


@needs_groups
def test_a_child_is_in_its_cell_from_its_first_moment_and_what_it_leaves_behind_goes_with_it() -> None:
    program = """
        cell = cage.current().cell("converter")
        script = "tail -n 1 /proc/self/cgroup; cat /proc/self/oom_score_adj; setsid sleep 600 > /dev/null 2>&1 &"
        told["said"] = subprocess.run(cell.wrap(["/bin/sh", "-c", script]), capture_output=True, text=True).stdout
        told["left"] = [int(pid) for pid in Path("/sys/fs/cgroup/jobs/converter-1/cgroup.procs").read_text().split()]
        cell.close()
        cage.current().cell("runner", among=cage.RUNNERS)
    """
    with service_group() as group:
        told = say(group, program=program)
        assert told["said"].split() == ["0::/jobs/converter-1", "500"]
        assert len(told["left"]) == 1
        assert eventually(lambda: not any(group.pids(f"jobs/{name}") for name in group.groups("jobs")), "it is gone")
        assert group.groups("runners") == ["runner-2"]


@needs_groups
def test_what_a_killed_daemon_left_is_cleared_by_the_next_one() -> None:
    leave = """
        cell = cage.current().cell("converter")
        subprocess.Popen(cell.wrap(["/bin/sh", "-c", "exec sleep 600 > /dev/null 2>&1"]))
        while not Path("/sys/fs/cgroup/jobs/converter-1/cgroup.procs").read_text():
            pass
    """
    clear = """
        import time
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and Path("/sys/fs/cgroup/jobs/converter-1").exists():
            cage.current().cell("another")  # each new one has what is left looked at
            time.sleep(0.01)
    """
    with service_group() as group:
        say(group, program=leave)
        assert group.pids("jobs/converter-1")
        say(group, program=clear)
        assert "converter-1" not in group.groups("jobs")


def laid_out(unit: Path, controllers: str = "cpu memory pids") -> Cage:
    """A cage over files that look like a cgroup's."""
    for name in (RUNNERS, JOBS):
        (unit / name).mkdir(parents=True)
        (unit / name / "cgroup.subtree_control").write_text(controllers)
    return Cage(unit)


def test_a_cell_is_limited_as_a_whole(tmp_path: Path) -> None:
    cage = laid_out(tmp_path)
    assert cage.why_not == ""
    cell = cage.cell("runner", 300 << 20, among=RUNNERS)
    files = {path.name: path.read_text() for path in (tmp_path / "runners" / "runner-1").iterdir()}
    assert cell.limit_bytes == 300 << 20
    assert files["memory.max"] == files["memory.swap.max"] == str(300 << 20)
    assert files["memory.oom.group"] == "1"
    assert int(files["pids.max"]) >= 256


def test_a_job_is_not_limited_in_memory(tmp_path: Path) -> None:
    cell = laid_out(tmp_path).cell("converter")
    assert cell.limit_bytes is None
    assert not (tmp_path / "jobs" / "converter-1" / "memory.max").exists()
    assert (tmp_path / "jobs" / "converter-1" / "pids.max").exists()


def test_without_the_memory_controller_there_are_cells_without_limits_and_a_sentence(tmp_path: Path) -> None:
    cage = laid_out(tmp_path, "pids")
    assert "the memory controller is not delegated" in cage.why_not
    assert cage.cell("runner", 300 << 20, among=RUNNERS).limit_bytes is None
    assert (tmp_path / "runners" / "runner-1").is_dir()


@pytest.mark.parametrize(
    ("rows", "line", "has_memory"),
    [
        ("cpu\t1\t1\t1\nmemory\t4\t59\t1\n", "cgroup_disable=memory cgroup_enable=memory", True),
        ("cpu\t1\t1\t1\nmemory\t0\t59\t0\n", "quiet", False),
        # not in version 1: Linux without CONFIG_MEMCG_V1, or Raspberry Pi OS
        ("cpu\t1\t1\t1\n", "quiet", True),
        ("cpu\t1\t1\t1\n", "cgroup_disable=memory quiet", False),
        ("cpu\t1\t1\t1\n", "cgroup_disable=memory cgroup_enable=cpuset,memory quiet", True),
        ("", "", True),
    ],
)
def test_a_kernel_whose_memory_controller_is_switched_off_is_told(
    tmp_path: Path, rows: str, line: str, has_memory: bool
) -> None:
    (tmp_path / "cgroups").write_text(f"#subsys_name\thierarchy\tnum_cgroups\tenabled\n{rows}")
    (tmp_path / "cmdline").write_text(f"{line}\n")
    assert kernel_has_memory(tmp_path) is has_memory


def test_a_kernel_that_tells_nothing_of_its_controllers_is_taken_to_have_them(tmp_path: Path) -> None:
    assert kernel_has_memory(tmp_path)


@pytest.mark.parametrize(
    ("events", "outgrown"),
    [
        ("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n", True),
        ("low 0\nhigh 0\nmax 12\noom 0\noom_kill 2\noom_group_kill 1\n", False),  # the machine's memory ended
        ("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n", False),
        ("", False),
    ],
)
def test_a_kill_because_of_the_limit_is_told_from_others(tmp_path: Path, events: str, outgrown: bool) -> None:
    cage = laid_out(tmp_path)
    cell = cage.cell("runner", 300 << 20, among=RUNNERS)
    (tmp_path / "runners" / "runner-1" / "memory.events").write_text(events)
    assert cage.num_limit_kills == (2 if outgrown else 0)
    cell.close()
    assert cell.outgrown is outgrown
    assert cage.num_limit_kills == (2 if outgrown else 0)
    cell.close()
    assert cage.num_limit_kills == (2 if outgrown else 0)


def test_names_of_cells_are_never_used_twice(tmp_path: Path) -> None:
    cage = laid_out(tmp_path)
    for _ in range(3):
        cage.cell("runner", among=RUNNERS)
    Cage(tmp_path).cell("runner", among=RUNNERS)
    assert sorted(path.name for path in (tmp_path / "runners").glob("*-*")) == [f"runner-{n}" for n in range(1, 5)]
