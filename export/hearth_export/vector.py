"""Norm weights, biases and the like on their way from a checkpoint into the data file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hearth_export.checkpoint import Tensors
from hearth_export.errors import BadCheckpoint, UnsupportedModel, missing
from hearth_export.ggml import FLOAT_TYPES, Floats, float_rows
from hearth_export.graph import Region
from hearth_export.quantize import Part, halves_apart


@dataclass(frozen=True, slots=True)
class Vector:
    """A float32 initializer."""

    region: Region
    parts: tuple[Part, ...]  # a part whose tensor is absent gives zeros
    optional: bool = False

    def read(self, tensors: Tensors) -> Floats:
        """All values, in the graph's order."""
        return np.concatenate([_read(tensors, part, self.optional) for part in self.parts])


def check_vector(tensors: Tensors, part: Part, optional: bool = False) -> None:
    """BadCheckpoint or UnsupportedModel where a tensor of the part is not a vector of as many floats."""
    for name in part.tensors:
        info = tensors.tensors.get(name)
        if info is None:
            if optional:
                continue
            raise missing(name)
        expected = (*info.shape[:1], part.tensor_rows) if part.expert >= 0 else (part.tensor_rows,)
        if info.shape != expected or (part.expert >= 0 and part.expert >= info.shape[0]):
            raise BadCheckpoint(f"tensor {name} has the shape {info.shape}, expected {expected}")
        if info.type not in FLOAT_TYPES:
            raise UnsupportedModel(f"tensor {name} is of type {info.type}; vectors are expected as F32, F16 or BF16")


def _read(tensors: Tensors, part: Part, optional: bool) -> Floats:
    if part.mate:
        pair = [_read(tensors, single, optional) for single in part.singles]
        return np.stack(pair, axis=1).reshape(-1)
    info = tensors.tensors.get(part.tensor)
    if info is None and optional:
        return np.zeros(part.num_rows, np.float32)
    assert info is not None
    row = max(0, part.expert)
    values = float_rows(tensors.rows(part.tensor, row, row + 1), info.type).reshape(-1, 1)
    if part.head_dim:
        values = halves_apart(values.view(np.uint8), part.head_dim).view(np.float32)
    if not np.isfinite(values).all():
        raise BadCheckpoint(f"tensor {part.tensor} holds a value that is not finite: the weights are damaged")
    return values.reshape(-1).copy()
