"""Weights as the kernels want them, in files beside the variant that `packing` wrote.

    <variant>/packed/<graph>-<key>/       model.onnx, its data, packed.json

At every load ONNX Runtime arranges most weights anew for the processor that it finds, in memory of its own, which only
swap can take back. From such a directory it maps them instead: pages of a file, which may leave at any time. The key
names ONNX Runtime's version and the processor; the directory is a cache of this device, never shipped, and goes with
its variant.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import onnxruntime as ort

from hearthd.store.variant import PACKED, VariantInfo

PLACE = PACKED
GRAPH = "model.onnx"
SEAL = "packed.json"
CPU_LINES = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # of /proc/cpuinfo: x86, Arm


class Seal(msgspec.Struct, frozen=True):
    """packed.json: what makes the directory one."""

    files: dict[str, int]  # name -> bytes
    source: dict[str, int]  # files of the variant that it was made from -> bytes


def device_key(cpuinfo: str) -> str:
    """What packed weights depend on beside the variant: ONNX Runtime's version and a checksum of the processor."""
    lines = {line for line in cpuinfo.splitlines() if line.startswith(CPU_LINES)}
    checksum = zlib.crc32("\n".join(sorted(lines)).encode())
    return f"{ort.__version__}-{checksum:08x}"


def place(directory: Path, graph: str) -> Path:
    """Where the packed form of a variant's graph belongs on this device."""
    key = device_key(Path("/proc/cpuinfo").read_text(errors="replace"))
    return directory / PLACE / f"{Path(graph).stem}-{key}"


def packed_graph(directory: Path, info: VariantInfo, graph: str) -> str | None:
    """The packed form of `graph` as a path below `directory`; None where there is none, or not a whole one."""
    try:
        packed = place(directory, graph)
        seal = msgspec.json.decode((packed / SEAL).read_bytes(), type=Seal)
        sizes = {name: (packed / name).stat().st_size for name in seal.files}
    except (OSError, msgspec.DecodeError):
        return None
    whole = sizes == seal.files and GRAPH in seal.files and seal.source == source_files(info)
    return str((packed / GRAPH).relative_to(directory)) if whole else None


def source_files(info: VariantInfo) -> dict[str, int]:
    """What a variant's packed forms are made from: file -> bytes."""
    return {name: size for name, size in info.files.items() if name != info.tokenizer}
