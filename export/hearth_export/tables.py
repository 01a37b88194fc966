"""Float32 initializers that are no vector of the checkpoint: rows of a matrix kept as floats, and computed ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hearth_export.checkpoint import Tensors
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import FLOAT_TYPES, Floats, float_rows
from hearth_export.quantize import Part
from hearth_export.vector import Vector
from hearth_export.weights import Weights


@dataclass(frozen=True, slots=True)
class Rows(Vector):
    """Rows of a tensor of floats, from `start` on: as many as its one part has."""

    start: int = 0

    def read(self, tensors: Tensors) -> Floats:
        (part,) = self.parts
        info = tensors.tensors[part.tensor]
        values = float_rows(tensors.rows(part.tensor, self.start, self.start + part.num_rows), info.type)
        if not np.isfinite(values).all():
            raise BadCheckpoint(f"tensor {part.tensor} holds a value that is not finite: the weights are damaged")
        return values.copy()


@dataclass(frozen=True, slots=True)
class Computed(Vector):
    """Values that are already known."""

    values: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    def read(self, tensors: Tensors) -> Floats:
        return self.values


def add_rows(weights: Weights, name: str, tensor: str, size: int, start: int, stop: int) -> str:
    """The initializer `name`, (stop - start, size): rows of a tensor that has at least `stop`.

    BadCheckpoint where it has not, UnsupportedModel where they are quantized.
    """
    info = weights.tensors.tensors.get(tensor)
    if info is None:
        raise BadCheckpoint(f"tensor {tensor} is missing")
    if len(info.shape) != 2 or info.shape[0] < stop or info.shape[1] != size:
        raise BadCheckpoint(f"tensor {tensor} has the shape {info.shape}, expected {size} columns, {stop} rows or more")
    if info.type not in FLOAT_TYPES:
        raise UnsupportedModel(f"tensor {tensor} is of type {info.type}; it is expected as F32, F16 or BF16")
    region = weights.graph.reserve((stop - start) * size * 4)
    weights.vectors.append(Rows(region, (Part(tensor, stop - start),), False, start))
    return weights.graph.external(name, "float32", [stop - start, size], region)


def add_computed(weights: Weights, name: str, values: Floats) -> str:
    """The initializer `name` of these values, float32."""
    region = weights.graph.reserve(values.size * 4)
    weights.vectors.append(Computed(region, (), False, values.astype(np.float32)))
    return weights.graph.external(name, "float32", list(values.shape), region)
