from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from hearthd.scheduler.process import exit_sentence, progress
from tests.e2e.daemon import eventually


@pytest.mark.parametrize(
    ("status", "by_us", "want"),
    [
        (-9, False, "killed by SIGKILL, most likely for lack of memory"),
        (-9, True, "it closed its connection and did not exit"),
        (-11, False, "killed by SIGSEGV"),
        (3, False, "exit status 3"),
        (None, False, "it no longer answers"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(status: int | None, by_us: bool, want: str) -> None:
    assert exit_sentence(status, by_us=by_us) == want


def test_progress_is_reading_and_touching_memory() -> None:
    before = progress(os.getpid())
    assert len(before) == 4
    bytearray(8 << 20)
    touched = progress(os.getpid())
    assert touched[2] > before[2]
    assert touched[0] > before[0]  # of /proc itself


def test_a_process_that_sleeps_makes_no_progress() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert eventually(lambda: stands_still(process.pid), "it sleeps")
        finally:
            process.kill()


def stands_still(pid: int) -> bool:
    before = progress(pid)
    time.sleep(0.05)
    return progress(pid) == before != ()


def test_a_process_that_is_gone_or_cannot_be_read_has_no_progress(tmp_path: Path) -> None:
    assert progress(1, tmp_path) == ()
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "io").write_text("rchar: many\n")
    (tmp_path / "1" / "stat").write_text("1 (a) b) S 0 1\n")
    assert progress(1, tmp_path) == ()
