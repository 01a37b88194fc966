"""The memory that a command took."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

# Linux counts what a process had before exec into its peak, so a small process in between starts the command.
_STARTER = (
    "import os, subprocess, sys\n"
    "child = subprocess.Popen(sys.argv[1:])\n"
    "_, status, usage = os.wait4(child.pid, 0)\n"
    "child.returncode = os.waitstatus_to_exitcode(status)\n"
    "print(usage.ru_maxrss)\n"
    "sys.exit(child.returncode)\n"
)


class Ended(NamedTuple):
    returncode: int
    lines: list[str]  # of standard output
    errors: str
    peak_bytes: int  # largest resident size


def run(*arguments: str) -> Ended:
    """`python -m hearth_export` with these arguments, to its end."""
    command = [sys.executable, "-c", _STARTER, sys.executable, "-m", "hearth_export", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    *lines, peak_kib = done.stdout.splitlines()
    return Ended(done.returncode, lines, done.stderr, int(peak_kib) << 10)
