"""The Optimum route from outside: a child process makes a graph, which is then taken like any ready one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from hearth_export.errors import ExportError
from hearth_export.precision import Goal
from hearth_export.progress import Progress
from hearth_export.readers.onnx import open_onnx
from hearth_export.readers.unknown import UnknownRepository
from hearth_export.ready import take
from hearthd.memory import read_memory
from hearthd.store.removal import clear_abandoned, unfinished

MODULE = "hearth_export.optimum_route"
NEEDED = 6  # times the size of the weights as float32, of memory; seen: 5.3
DISK = 3  # of disk: the float graph, and what is made of it
RESERVE_BYTES = 64 << 20
WORDS = "stderr.txt"
BITS = {"cpu-int4": 4, "cpu-int8": 8, "cpu-f32": 0}


class _Line(msgspec.Struct):
    stage: str = ""
    error: str = ""
    result: dict[str, object] | None = None


_decoder = msgspec.json.Decoder(_Line)


def convert_foreign(
    repository: UnknownRepository, digest: str, root: Path, report: Progress, *, variant: str = "", goal: Goal
) -> str:
    """Makes a variant of a checkpoint that only Optimum knows; its directory's name. Raises ExportError."""
    bits = 0 if goal is Goal.FLOAT else BITS.get(variant, 8)
    report("reading", 0, 0)
    _require_room(repository, root)
    clear_abandoned(root)
    with unfinished(root) as out:
        _run(repository, out, bits, report)
        return take(open_onnx(out), digest, root, report, described=repository, owned=True, goal=str(goal))


def _require_room(repository: UnknownRepository, root: Path) -> None:
    needed, available = NEEDED * repository.float_bytes, read_memory().available_bytes
    if available < needed:
        raise ExportError(
            f"{repository.path}: the Optimum route needs {needed >> 20} MiB of memory, {NEEDED} times the weights as "
            f"floats, and {available >> 20} MiB are free: convert it on a larger machine and push or copy the model"
        )
    root.mkdir(parents=True, exist_ok=True)
    needed, free = DISK * repository.float_bytes + RESERVE_BYTES, shutil.disk_usage(root).free
    if free < needed:
        raise ExportError(
            f"{repository.path}: the Optimum route needs {needed >> 20} MiB of disk under {root}, and {free >> 20} MiB "
            "are free"
        )


def _run(repository: UnknownRepository, out: Path, bits: int, report: Progress) -> None:
    """Raises ExportError with the child's sentence, or with how it ended."""
    command = [sys.executable, "-m", MODULE, str(repository.path), str(out), f"--bits={bits}"]
    with (
        (out / WORDS).open("wb") as words,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words) as child,
    ):
        try:
            last = _relay(child, report)
            status = child.wait()
        finally:
            child.kill()
    if last.error:
        raise ExportError(last.error)
    if status or last.result is None:
        raise ExportError(f"{repository.path}: {_death(status)}{_last_words(out / WORDS)}")


def _relay(child: subprocess.Popen[bytes], report: Progress) -> _Line:
    """Passes on what the child says; its last line."""
    last = _Line()
    assert child.stdout is not None
    for line in child.stdout:
        last = _decoder.decode(line)
        if last.stage:
            report(last.stage, 0, 0)
    return last


def _death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the Optimum route was killed, most likely for lack of memory"
    return f"the Optimum route ended with status {status} and no result"


def _last_words(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""
