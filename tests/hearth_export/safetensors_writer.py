"""Writes safetensors files for tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 values: as uint16, which write_safetensors takes for BF16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> Path:
    """Writes the file and returns its path. uint16 arrays are BF16."""
    header, at = {}, 0
    for name, values in tensors.items():
        dtype = DTYPES.get(values.dtype.name, "BF16")
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.writelines(values.tobytes() for values in tensors.values())
    return path
