"""The same checkpoint with its matrices in another block type, so that one file becomes models of several sizes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import quants

from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.readers.values import MetaArray
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf


def retyped(source: Path, path: Path, block_type: str) -> Path:
    """Writes the GGUF file `source` to `path`, all its matrices quantized anew; `path`."""
    with open_gguf(source) as file:
        metadata = {key: _plain(value) for key, value in file.metadata.items() if not key.startswith("general.file")}
        tensors = [_tensor(file, name, block_type) for name in file.tensors]
    return write_gguf(path, metadata, tensors)


def _plain(value: object) -> Meta:
    found = value.tolist() if isinstance(value, MetaArray) else value
    return found  # type: ignore[return-value]


def _tensor(file: GGUF, name: str, block_type: str) -> Tensor:
    info = file.tensor(name)
    raw = np.array(file.rows(name, 0, info.num_rows))
    values = quants.dequantize(raw, gguf.GGMLQuantizationType[info.type]).reshape(info.shape).astype(np.float32)
    return Tensor(name, info.shape, block_type if len(info.shape) > 1 else "F32", values)
