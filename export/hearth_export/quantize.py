"""Matrices on their way from a checkpoint into the data file: planned whole, then streamed by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hearth_export.checkpoint import Tensors
from hearth_export.errors import BadCheckpoint, ExportError, missing
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, Blocks, Bytes, Floats, dequantize, float_rows
from hearth_export.graph import Graph, Region
from hearth_export.precision import (
    Goal,
    Holder,
    Layout,
    PackedRows,
    choose,
    float_layout,
    interleaved,
    layout_of,
    means_error,
    pack,
    pack_floats,
)
from hearth_export.writer import DataFile

CHUNK_ELEMENTS = 1 << 19  # weights unpacked at once: some 10 MiB of arrays
SAMPLES, SAMPLE_ROWS = 4, 16  # how many runs of rows a layout is chosen by, and how long each is
MAX_MEANS_ERROR = 0.02  # beyond this offsets are held as floats; int8 activations alone cost about 0.01


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor that gives some of a matrix's rows."""

    tensor: str
    num_rows: int  # of the matrix
    head_dim: int = 0  # the tensor's rows alternate between the halves of a head
    expert: int = -1  # whose matrix it is in a tensor of three dimensions
    mate: str = ""  # a tensor like this one, whose rows come between this one's

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor, self.mate) if self.mate else (self.tensor,)

    @property
    def tensor_rows(self) -> int:
        """Rows that come from each tensor."""
        return self.num_rows // len(self.tensors)

    @property
    def singles(self) -> tuple[Part, ...]:
        """The part itself, or each of the two that it is made of."""
        return tuple(replace(self, tensor=name, num_rows=self.tensor_rows, mate="") for name in self.tensors)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A held matrix: its parts' rows one after the other, and where its bytes lie."""

    name: str
    parts: tuple[Part, ...]
    layout: Layout
    num_outputs: int
    codes: Region  # float32 weights where the layout has no codes
    scales: Region  # of no bytes there
    zero_points: Region | None
    offsets: Region | None  # (num_outputs, num_offsets) float32, times block: they multiply block means

    @property
    def num_bytes(self) -> int:
        regions = (self.codes, self.scales, self.zero_points, self.offsets)
        return sum(region.num_bytes for region in regions if region)

    def write(self, file: DataFile, row: int, packed: PackedRows) -> int:
        """Writes rows from `row` on; the bytes written."""
        layout, written = self.layout, 0
        for region, row_bytes, values in (
            (self.codes, layout.code_bytes, packed.codes),
            (self.scales, layout.scale_bytes, packed.scales),
            (self.zero_points, layout.zero_point_bytes, packed.zero_points),
            (self.offsets, layout.offset_bytes, packed.offsets),
        ):
            if region and values is not None:
                file.write(region.offset + row * row_bytes, values)
                written += values.nbytes
        return written


def plan_matrix(graph: Graph, name: str, parts: tuple[Part, ...], layout: Layout) -> Matrix:
    """Reserves a matrix's bytes in the graph's data file."""
    num_outputs = sum(part.num_rows for part in parts)
    reserve = [
        graph.reserve(num_outputs * size) if size else None for size in (layout.zero_point_bytes, layout.offset_bytes)
    ]
    return Matrix(
        name,
        parts,
        layout,
        num_outputs,
        graph.reserve(num_outputs * layout.code_bytes),
        graph.reserve(num_outputs * layout.scale_bytes),
        *reserve,
    )


def plan_layout(tensors: Tensors, part: Part, num_inputs: int, goal: Goal) -> Layout:
    """How a tensor of `num_inputs` columns is held, its shape checked on the way."""
    if goal is Goal.FLOAT:
        return _planned_floats(tensors, part, num_inputs)
    sample = _checked_sample(tensors, part, num_inputs)
    holder = choose(sample.offset is not None, goal)
    if holder is Holder.AUGAP and means_error(sample) > MAX_MEANS_ERROR:
        holder = Holder.OFFSET
    return layout_of(holder, sample.bits, sample.block, num_inputs)


def plan_embedding_layout(tensors: Tensors, part: Part, num_inputs: int, goal: Goal = Goal.BYTES) -> Layout:
    """Embeddings are gathered by rows, so they are held in 8 bit without offsets, or as floats."""
    if goal is Goal.FLOAT:
        return _planned_floats(tensors, part, num_inputs)
    sample = _checked_sample(tensors, part, num_inputs)
    holder = Holder.EXACT if sample.offset is None else Holder.INT8
    return layout_of(holder, 8, sample.block, num_inputs)


def _planned_floats(tensors: Tensors, part: Part, num_inputs: int) -> Layout:
    layout = float_layout(num_inputs)
    for single in part.singles:
        _check_shape(tensors, single.tensor, single, num_inputs)
        _floats(tensors, single, 0, part.head_dim or 1)
        tensors.release(single.tensor)
    return layout


def spans(part: Part, num_inputs: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of rows from the first to the last, as many at a time as may be unpacked at once."""
    step = max(1, CHUNK_ELEMENTS // num_inputs)
    whole = part.head_dim or len(part.tensors)
    step = max(1, step // whole) * whole
    for start in range(0, part.num_rows, step):
        yield start, min(start + step, part.num_rows)


def pack_rows(tensors: Tensors, part: Part, start: int, stop: int, layout: Layout) -> PackedRows:
    """Rows start..stop of a part as they go into the data file; borders are whole heads and whole pairs."""
    if part.mate:
        even, odd = (pack_rows(tensors, single, start // 2, stop // 2, layout) for single in part.singles)
        return interleaved(even, odd)
    if layout.holder is Holder.FLOAT:
        return pack_floats(_floats(tensors, part, start, stop))
    return pack(read_blocks(tensors, part, start, stop), layout)


def read_weights(tensors: Tensors, part: Part, start: int, stop: int, layout: Layout) -> Floats:
    """What rows start..stop of a matrix are to compute with, (stop - start, K); borders as for `pack_rows`."""
    if part.mate:
        even, odd = (read_weights(tensors, single, start // 2, stop // 2, layout) for single in part.singles)
        return np.stack([even, odd], axis=1).reshape(stop - start, -1)
    if layout.holder is Holder.FLOAT:
        return _floats(tensors, part, start, stop)
    return dequantize(read_blocks(tensors, part, start, stop))


def read_blocks(tensors: Tensors, part: Part, start: int, stop: int) -> Blocks:
    """Rows start..stop of a part's tensor in the order that the graph wants; borders are whole heads."""
    return _unpack(tensors, part.tensor, _raw(tensors, part, start, stop), f"rows {start}..{stop}")


def release(tensors: Tensors, part: Part) -> None:
    """What was read of a part is not needed any more."""
    for name in part.tensors:
        tensors.release(name)


def _floats(tensors: Tensors, part: Part, start: int, stop: int) -> Floats:
    """As read_blocks, in float32 whatever the type."""
    raw, block_type = _raw(tensors, part, start, stop), tensors.tensors[part.tensor].type
    if block_type not in FLOAT_TYPES:
        return dequantize(_unpack(tensors, part.tensor, raw, f"rows {start}..{stop}"))
    w = float_rows(raw, block_type)
    if not np.isfinite(w).all():
        raise BadCheckpoint(
            f"tensor {part.tensor}, rows {start}..{stop}, holds a value that is not finite: the weights are damaged"
        )
    return w


def _raw(tensors: Tensors, part: Part, start: int, stop: int) -> Bytes:
    first = max(0, part.expert) * part.tensor_rows
    raw = tensors.rows(part.tensor, first + start, first + stop)
    return halves_apart(raw, part.head_dim) if part.head_dim else raw


def halves_apart(rows: Bytes, head_dim: int) -> Bytes:
    """Rows 0, 2, 4 .. of each head before its rows 1, 3, 5 ..: llama.cpp's order of q and k undone."""
    heads = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def _unpack(tensors: Tensors, name: str, raw: Bytes, which: str) -> Blocks:
    try:
        return BLOCK_TYPES[tensors.tensors[name].type].unpack(raw)
    except ExportError as error:
        raise type(error)(f"tensor {name}, {which}: {error}") from error


def _checked_sample(tensors: Tensors, part: Part, num_inputs: int) -> Blocks:
    """Some rows from all over a tensor whose shape is as expected."""
    _check_shape(tensors, part.tensor, part, num_inputs)
    starts = np.linspace(0, max(0, part.num_rows - SAMPLE_ROWS), SAMPLES, dtype=int).tolist()
    first = max(0, part.expert) * part.tensor_rows
    runs = [
        tensors.rows(part.tensor, first + start, first + min(start + SAMPLE_ROWS, part.num_rows)) for start in starts
    ]
    sample = _unpack(tensors, part.tensor, np.concatenate(runs), "a sample of its rows")
    tensors.release(part.tensor)
    return sample


def _check_shape(tensors: Tensors, name: str, part: Part, num_inputs: int) -> None:
    info = tensors.tensors.get(name)
    if info is None:
        raise missing(name)
    matrices = info.shape[:1] if part.expert >= 0 else ()
    expected = (*matrices, part.tensor_rows, num_inputs)
    if info.shape != expected or (matrices and part.expert >= matrices[0]):
        raise BadCheckpoint(f"tensor {name} has the shape {info.shape}, expected {expected}")
