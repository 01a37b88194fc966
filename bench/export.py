"""`make bench-export`: how fast a checkpoint is converted, and how much memory that takes.

    python -m bench.export [GIB]

A synthetic GGUF file of that size (Llama 3 of 8B with more layers, Q4_K_M's mix of block types, valid blocks that
repeat), then SmolLM2-135M; each by the command that the daemon starts, in a process of its own. Rates are bytes of the
source a second; memory is the largest resident size of that process and its children. Sources were just written or
read, so that most of them lies in the page cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.workload import checkpoint
from tests.hearth_export.large_gguf import layers_of, write_large_gguf

SYNTHETIC_GIB = 8.0
DIGEST = "sha256:" + "0" * 64
START, END = "start", "publishing"  # before the first and after the last stage that the converter names


@dataclass(slots=True)
class Conversion:
    """What was seen of one."""

    name: str
    source_bytes: int
    stages_s: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    variant_bytes: int = 0

    @property
    def total_s(self) -> float:
        return sum(self.stages_s.values())


def main(gib: float) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as name:
        folder = Path(name)
        _require_space(folder, gib)
        synthetic = write_large_gguf(folder / "synthetic.gguf", layers_of(int(gib * (1 << 30))))
        found = [convert(f"synthetic, {gib:g} GiB", synthetic, folder)]
        synthetic.unlink()
        found.append(convert("SmolLM2-135M, Q4_1", checkpoint(), folder))
    show(found)


def _require_space(folder: Path, gib: float) -> None:
    """SystemExit where source and variant do not fit."""
    free, needed = shutil.disk_usage(folder).free, int((2.5 * gib + 1) * (1 << 30))
    if free < needed:
        raise SystemExit(f"bench: {needed >> 30} GiB of disk are needed under {folder}, but {free >> 30} GiB are free")


def convert(name: str, source: Path, folder: Path) -> Conversion:
    """Converts `source` into a directory of its own, which is removed."""
    found, root = Conversion(name, source.stat().st_size), folder / "variants"
    command = [sys.executable, "-m", "hearth_export", "convert", str(source), "--digest", DIGEST, "--out", str(root)]
    stage, since_s = START, time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        for line in _lines(child):
            found.peak_bytes = max(found.peak_bytes, peak_of(child.pid))
            now, now_s = line.get("stage", END), time.monotonic()
            found.stages_s[stage] = found.stages_s.get(stage, 0.0) + now_s - since_s
            stage, since_s = str(now), now_s
    if child.returncode:
        raise SystemExit(f"bench: the conversion of {source} ended with {child.returncode}")
    found.variant_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    shutil.rmtree(root)
    return found


def _lines(child: subprocess.Popen[bytes]) -> Iterator[dict[str, object]]:
    """What the converter says. SystemExit with its own sentence where it fails."""
    assert child.stdout is not None
    for line in child.stdout:
        said = msgspec.json.decode(line, type=dict[str, object])
        if "error" in said:
            raise SystemExit(f"bench: {said['error']}")
        yield said


def peak_of(pid: int) -> int:
    """The largest resident sizes that a process and its children had so far, bytes, added up."""
    with suppress(OSError):
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
        return _high_water(pid) + sum(peak_of(int(child)) for child in children)
    return 0


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def show(found: list[Conversion]) -> None:
    """One table."""
    stages = list(dict.fromkeys(stage for conversion in found for stage in conversion.stages_s))
    table = Table(title=f"conversions, {len(os.sched_getaffinity(0))} cores")
    for column in (
        "",
        "source, MiB",
        "variant, MiB",
        *(f"{stage}, s" for stage in stages),
        "all, s",
        "MB/s",
        "peak, MiB",
    ):
        table.add_column(column, justify="right" if column else "left")
    for it in found:
        sizes = [f"{size / (1 << 20):.0f}" for size in (it.source_bytes, it.variant_bytes)]
        times = [f"{it.stages_s.get(stage, 0.0):.2f}" for stage in stages]
        rate = f"{it.source_bytes / it.total_s / 1e6:.0f}"
        table.add_row(it.name, *sizes, *times, f"{it.total_s:.2f}", rate, f"{it.peak_bytes / (1 << 20):.0f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SYNTHETIC_GIB)
