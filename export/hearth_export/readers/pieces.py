"""Sources of a translation, found in the files: each gives some rows of a tensor as GGUF stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, Bytes, float_rows
from hearth_export.readers.safetensors import Stored
from hearth_export.translation import Source

MXFP4 = "MXFP4"
MXFP4_BLOCK = 32  # weights that share a scale, as 16 bytes; GGUF puts the scale before them


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a stored tensor: `shape` is (rows, columns), or (values,) of a vector, which is one row."""

    stored: Stored
    source: Source
    type: str  # a key of BLOCK_TYPES
    shape: tuple[int, ...]
    scales: Stored | None = None

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def num_rows(self) -> int:
        return self.shape[0] if len(self.shape) == 2 else 1

    def read(self, start: int, stop: int) -> Bytes:
        """Rows start..stop of this piece, (stop - start, row_bytes) uint8."""
        if len(self.shape) == 1:
            return self._values()[None][start:stop]
        first, step = self.source.start, self.source.step
        chosen = slice(first + start * step, first + stop * step, step)
        if self.scales is not None:
            return _mxfp4_rows(self.stored, self.scales, chosen)
        if self.source.transposed:
            return _turned_rows(self.stored, chosen)
        return np.ascontiguousarray(self.stored.data().reshape(-1, self._stored_row_bytes)[chosen])

    def release(self) -> None:
        """Gives the pages of the whole stored tensor back."""
        self.stored.release()
        if self.scales is not None:
            self.scales.release()

    @property
    def _stored_row_bytes(self) -> int:
        return self.stored.shape[-1] * BLOCK_TYPES[self.type].num_bytes

    def _values(self) -> Bytes:
        """A vector's bytes."""
        source, itemsize = self.source, BLOCK_TYPES[self.stored.dtype].num_bytes
        values = self.stored.data().reshape(-1, itemsize)[source.start : source.stop : source.step]
        values = np.ascontiguousarray(values)
        if source.added:
            sums = float_rows(values.reshape(1, -1), self.stored.dtype) + np.float32(source.added)
            values = sums.astype("<f4").view(np.uint8)
        return values.reshape(-1)


def pieces_of(name: str, sources: tuple[Source, ...], stored: Mapping[str, Stored]) -> tuple[Piece, ...]:
    """The pieces that the tensor `name` is made of.

    Raises BadCheckpoint for a source that is missing or too small, UnsupportedModel for a dtype that is not known.
    """
    return tuple(_piece(name, source, stored) for source in sources)


def _piece(name: str, source: Source, stored: Mapping[str, Stored]) -> Piece:
    tensor = stored.get(source.name)
    if tensor is None:
        raise BadCheckpoint(f"tensor {source.name} is missing (it holds {name})")
    if source.scales:
        return _mxfp4_piece(source, tensor, stored)
    if tensor.dtype not in FLOAT_TYPES:
        raise UnsupportedModel(
            f"tensor {source.name} is stored as {tensor.dtype}; F32, F16 and BF16 can be converted: "
            "take the checkpoint in one of these, or a GGUF file of the model"
        )
    if source.flat or len(tensor.shape) < 2:
        count = _count(source, math.prod(tensor.shape), tensor)
        return Piece(tensor, source, "F32" if source.added else tensor.dtype, (count,))
    rows, columns = _matrix(tensor, source.transposed)
    return Piece(tensor, source, tensor.dtype, (_count(source, rows, tensor), columns))


def _matrix(tensor: Stored, transposed: bool) -> tuple[int, int]:
    """Rows of all matrices together, and columns."""
    *outer, rows, columns = tensor.shape
    if transposed:
        rows, columns = columns, rows
    return math.prod(outer) * rows, columns


def _count(source: Source, num_rows: int, tensor: Stored) -> int:
    """How many of `num_rows` the source takes."""
    stop = num_rows if source.stop is None else source.stop
    if not 0 <= source.start < stop <= num_rows:
        raise BadCheckpoint(
            f"tensor {tensor.name} has the shape {tensor.shape}, in which there are no rows {source.start} to {stop}"
        )
    return len(range(source.start, stop, source.step))


def _mxfp4_piece(source: Source, blocks: Stored, stored: Mapping[str, Stored]) -> Piece:
    scales = stored.get(source.scales)
    if scales is None:
        raise BadCheckpoint(f"tensor {source.scales} is missing (it holds the scales of {source.name})")
    if (blocks.dtype, scales.dtype) != ("U8", "U8") or blocks.shape != (*scales.shape, 16) or len(blocks.shape) < 3:
        raise BadCheckpoint(
            f"tensor {blocks.name} is {blocks.dtype} {blocks.shape} and its scales are {scales.dtype} {scales.shape}; "
            "MXFP4 takes bytes, 16 for each scale"
        )
    num_rows = math.prod(scales.shape[:-1])
    columns = scales.shape[-1] * MXFP4_BLOCK
    return Piece(blocks, source, MXFP4, (_count(source, num_rows, blocks), columns), scales)


def _mxfp4_rows(blocks: Stored, scales: Stored, chosen: slice) -> Bytes:
    """Rows of GGUF's blocks, the scale first. Safetensors has two neighbours in a byte, the first in the low half; GGUF
    has the first 16 weights of a block in the low halves and the last 16 in the high ones."""
    num_blocks = scales.shape[-1]
    packed = blocks.data().reshape(-1, num_blocks, 16)[chosen]
    weights = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], -1).reshape(*packed.shape[:2], 2, 16)
    rows = np.empty((len(packed), num_blocks, 17), np.uint8)
    rows[:, :, 0] = scales.data().reshape(-1, num_blocks)[chosen]
    rows[:, :, 1:] = weights[:, :, 0] | weights[:, :, 1] << np.uint8(4)
    return rows.reshape(len(packed), -1)


def _turned_rows(tensor: Stored, chosen: slice) -> Bytes:
    """Columns of the stored matrices as rows; they lie in one of the matrices."""
    itemsize = BLOCK_TYPES[tensor.dtype].num_bytes
    num_inputs, num_outputs = tensor.shape[-2:]
    which = chosen.start // num_outputs
    matrix = tensor.data().view(f"<u{itemsize}").reshape(-1, num_inputs, num_outputs)[which]
    first = chosen.start - which * num_outputs
    count = len(range(chosen.start, chosen.stop, chosen.step))
    rows = matrix[:, first : first + count * chosen.step : chosen.step].T
    return np.ascontiguousarray(rows).view(np.uint8).reshape(count, -1)
