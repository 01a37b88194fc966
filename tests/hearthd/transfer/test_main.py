"""The process: what it takes, how it answers, when it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from hearthd.transfer import messages
from hearthd.transfer.__main__ import JOBS, NICENESS, USAGE
from hearthd.transfer.messages import Drop, Finished
from tests.e2e.daemon import eventually
from tests.hearthd.transfer.fetching import MIB, blob_order, failure, manifest_order, settings
from tests.registries.misbehaving import MisbehavingRegistry, silent
from tests.registries.sender import Sender, sender

MANIFEST = b"{}"
NAME = "library/tiny:latest"
MAX_PEAK_BYTES = 72 * MIB


def say(process: Sender, line: bytes) -> None:
    assert process.process.stdin is not None
    process.process.stdin.write(line)
    process.process.stdin.flush()


def peak_bytes(process: Sender) -> int:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def test_every_job_has_its_function() -> None:
    assert set(JOBS) == set(get_args(messages.Job))
    for place in JOBS.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("line", [b"junk\n", b"\n", b"[]\n", b'{"type": "drop"}\n', b'{"type": "drop", "id": 77}\n'])
def test_line_that_orders_nothing_disturbs_nobody(registry: MisbehavingRegistry, process: Sender, line: bytes) -> None:
    registry.manifests[NAME] = MANIFEST
    say(process, line)
    assert process.do(manifest_order(registry)) == [Finished(1, MANIFEST)]


@pytest.mark.parametrize("line", [b'{"type": "nope", "id": 5}\n', b'{"type": "fetch_blob", "id": 5}\n'])
def test_order_that_cannot_be_read_fails_where_its_id_can(process: Sender, line: bytes) -> None:
    say(process, line)
    failed = failure(list(process.answers()))
    assert (failed.id, failed.error.startswith("the order cannot be read: ")) == (5, True)


def test_second_job_of_a_running_id_is_left_out(
    registry: MisbehavingRegistry, process: Sender, directory: Path
) -> None:
    digest = registry.add(bytes(4 * MIB), bytes_per_s=8 * MIB)
    process.order(blob_order(registry, digest, directory))
    process.order(manifest_order(registry, "nope"))
    assert list(process.answers())[-1] == Finished(1)
    assert "job 1 is running already" in process.close()


def test_dropped_job_leaves_the_others_alone(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digests = [registry.add(bytes([number]) * 4 * MIB, bytes_per_s=4 * MIB) for number in range(2)]
    for number, digest in enumerate(digests):
        process.order(blob_order(registry, digest, directory, id=number))
    process.order(Drop(id=0))
    ends = {end.id: end for end in (list(process.answers())[-1] for _ in digests)}
    assert failure([ends[0]]).reason == messages.DROPPED
    assert ends[1] == Finished(1)


def test_end_of_input_without_jobs_is_the_end() -> None:
    with sender(settings()) as process:
        assert process.close() == ""
        assert process.process.returncode == 0


def test_end_of_input_is_not_delayed_by_a_registry_that_says_nothing(
    registry: MisbehavingRegistry,
) -> None:
    registry.manifests[NAME] = silent
    with sender(settings(stall_timeout_s=3600.0)) as process:
        process.order(manifest_order(registry))
        eventually(lambda: registry.seen, "the request comes")
        process.close()
        assert process.process.returncode == 0


def test_process_is_politer_than_its_parent(process: Sender, registry: MisbehavingRegistry) -> None:
    registry.manifests[NAME] = MANIFEST
    process.do(manifest_order(registry))
    assert os.getpriority(os.PRIO_PROCESS, process.process.pid) == os.getpriority(os.PRIO_PROCESS, 0) + NICENESS


def test_process_ends_with_its_parent() -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'hearthd.transfer', sys.argv[1]], stdin=subprocess.PIPE,\n"
        "                         stdout=subprocess.PIPE)\n"
        'child.stdin.write(b\'{"type": "make_key", "id": 1}\\n\'); child.stdin.flush(); child.stdout.readline()\n'
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, msgspec.json.encode(settings()).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    eventually(lambda: not is_alive(child), "the process ends")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_large_blob_takes_little_memory(registry: MisbehavingRegistry, process: Sender, directory: Path) -> None:
    digest = registry.add(bytes(160 * MIB))
    assert process.do(blob_order(registry, digest, directory))[-1] == Finished(1)
    assert peak_bytes(process) < MAX_PEAK_BYTES


@pytest.mark.parametrize("arguments", [[], ["{}"], ["junk"], ["{}", "{}"]])
def test_wrong_arguments_are_answered_by_the_usage(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "hearthd.transfer", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(USAGE)
    assert "Traceback" not in done.stderr
