"""GGUF models in several files, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hearth_export.readers.gguf import open_gguf
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf

COUNT = 3


def write_parts(whole: Path, directory: Path, changes: dict[str, Meta] | None = None) -> Path:
    """The file in parts, as llama-gguf-split makes them: metadata in the first."""
    directory.mkdir()
    with open_gguf(whole) as gguf:
        tensors = [
            Tensor(info.name, info.shape, info.type, gguf.rows(info.name, 0, info.num_rows).tobytes())
            for info in gguf.tensors.values()
        ]
        about = {
            key: value if isinstance(value, str | int | float | bool) else _listed(value.tolist())
            for key, value in gguf.metadata.items()
        }
    for number in range(COUNT):
        split: dict[str, Meta] = {
            "split.no": np.uint16(number),
            "split.count": np.uint16(COUNT),
            "split.tensors.count": np.int32(len(tensors)),
            **((changes or {}) if number == 0 else {}),
        }
        name = f"tiny-{number + 1:05}-of-{COUNT:05}.gguf"
        write_gguf(directory / name, (about if number == 0 else {}) | split, tensors[number::COUNT])
    return directory


def _listed(values: list[str | int | float | bool]) -> Meta:
    return values  # type: ignore[return-value]
