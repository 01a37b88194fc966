"""Matrices on their way from a checkpoint into the data file: planned whole, then streamed by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hearth_export.checkpoint import Tensors
from hearth_export.errors import BadCheckpoint, ExportError
from hearth_export.ggml import BLOCK_TYPES, Blocks, Bytes
from hearth_export.graph import Graph, Region
from hearth_export.precision import Goal, Holder, Layout, choose, layout_of, means_error, pack
from hearth_export.writer import DataFile

CHUNK_ELEMENTS = 1 << 19  # weights unpacked at once: some 10 MiB of arrays
SAMPLES, SAMPLE_ROWS = 4, 16  # how many runs of rows a layout is chosen by, and how long each is
MAX_MEANS_ERROR = 0.02  # beyond this offsets are held as floats; int8 activations alone cost about 0.01


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor that gives some of a matrix's rows. With `head_dim` its rows alternate between the halves of a head."""

    tensor: str
    num_rows: int
    head_dim: int = 0


@dataclass(frozen=True, slots=True)
class Matrix:
    """A held matrix: its parts' rows one after the other, and where its bytes lie."""

    name: str
    parts: tuple[Part, ...]
    layout: Layout
    num_outputs: int
    codes: Region
    scales: Region
    zero_points: Region | None
    offsets: Region | None  # (num_outputs, num_offsets) float32, times block: they multiply block means

    @property
    def num_bytes(self) -> int:
        regions = (self.codes, self.scales, self.zero_points, self.offsets)
        return sum(region.num_bytes for region in regions if region)

    def stream(self, tensors: Tensors, file: DataFile) -> Iterator[int]:
        """Writes the matrix, yielding the bytes written after each chunk of rows."""
        first_row = 0
        for part in self.parts:
            for start, blocks in chunks(tensors, part, self.layout.num_inputs):
                yield self._write(file, first_row + start, blocks)
            first_row += part.num_rows

    def _write(self, file: DataFile, row: int, blocks: Blocks) -> int:
        packed, layout, written = pack(blocks, self.layout), self.layout, 0
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
    sample = _checked_sample(tensors, part, num_inputs)
    holder = choose(sample.offset is not None, goal)
    if holder is Holder.AUGAP and means_error(sample) > MAX_MEANS_ERROR:
        holder = Holder.OFFSET
    return layout_of(holder, sample.bits, sample.block, num_inputs)


def plan_embedding_layout(tensors: Tensors, part: Part, num_inputs: int) -> Layout:
    """Embeddings are gathered by rows, so they are held in 8 bit without offsets."""
    sample = _checked_sample(tensors, part, num_inputs)
    holder = Holder.EXACT if sample.offset is None else Holder.INT8
    return layout_of(holder, 8, sample.block, num_inputs)


def chunks(tensors: Tensors, part: Part, num_inputs: int) -> Iterator[tuple[int, Blocks]]:
    """The part's rows from the first to the last, some at a time: (first row, Blocks)."""
    step = max(1, CHUNK_ELEMENTS // num_inputs)
    if part.head_dim:
        step = max(1, step // part.head_dim) * part.head_dim
    for start in range(0, part.num_rows, step):
        stop = min(start + step, part.num_rows)
        yield start, read_blocks(tensors, part, start, stop)
        tensors.release(part.tensor)


def read_blocks(tensors: Tensors, part: Part, start: int, stop: int) -> Blocks:
    """Rows start..stop of a part in the order that the graph wants; borders are whole heads where it has heads."""
    raw = tensors.rows(part.tensor, start, stop)
    if part.head_dim:
        raw = halves_apart(raw, part.head_dim)
    return _unpack(tensors, part.tensor, raw, f"rows {start}..{stop}")


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
    info = tensors.tensors.get(part.tensor)
    if info is None:
        raise BadCheckpoint(f"tensor {part.tensor} is missing")
    if info.shape != (part.num_rows, num_inputs):
        raise BadCheckpoint(f"tensor {part.tensor} has the shape {info.shape}, expected {(part.num_rows, num_inputs)}")
    starts = np.linspace(0, max(0, part.num_rows - SAMPLE_ROWS), SAMPLES, dtype=int).tolist()
    runs = [tensors.rows(part.tensor, start, min(start + SAMPLE_ROWS, part.num_rows)) for start in starts]
    sample = _unpack(tensors, part.tensor, np.concatenate(runs), "a sample of its rows")
    tensors.release(part.tensor)
    return sample
