"""Vectors of texts, brought to the length and the size that were asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.frames import Embed, Embedded

Floats = NDArray[np.float32]

MIN_LENGTH = 1e-12  # a vector of zeros stays one


class NonFiniteVector(ValueError):
    """The model computed something that is no number."""

    def __init__(self) -> None:
        super().__init__("embedding contains NaN or Inf values")


def finished(vectors: Floats, *, normalize: bool, dimensions: int) -> Floats:
    """(n, size) float32 as asked for: the first `dimensions` values where that is less than all, 0 or below: all.

    With `normalize` each is then brought to a length of 1. Raises NonFiniteVector.
    """
    if 0 < dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
    if not np.isfinite(vectors).all():
        raise NonFiniteVector
    if not normalize:
        return np.ascontiguousarray(vectors, np.float32)
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    normalized: Floats = (wide / np.maximum(lengths, MIN_LENGTH)).astype(np.float32)
    return normalized


def answer(request: Embed, vectors: Floats, num_tokens: int, prompt_ns: int) -> Embedded:
    """The frame that ends `request`, whose texts have the `vectors` (n, hidden_size). Raises NonFiniteVector."""
    wanted = finished(vectors, normalize=request.normalize, dimensions=request.dimensions)
    content = wanted.astype("<f4", copy=False).tobytes()
    return Embedded(request.id, content, wanted.shape[1], num_tokens, prompt_ns)
