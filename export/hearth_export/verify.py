"""Checks of a finished variant before it is published.

Every matrix is run by ONNX Runtime, straight from the written file, on slices of its rows: the first of each tensor
that went into it, and the last of all. The result must agree with the checkpoint's own weights. So a wrong offset,
layout or row order is found, whatever the model's size, in memory that does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from hearth_export.errors import ExportError
from hearth_export.ggml import Floats
from hearth_export.graph import Graph, Region
from hearth_export.linear import gather, multiply
from hearth_export.quantize import Matrix, Part, read_weights, release
from hearth_export.spec import Tensors
from hearth_export.vector import Vector

SLICE_ROWS = 64
BATCH = 8  # slices a session
PROBES = (1, 8)  # rows of x: one row takes another kernel than many
MAX_ERROR = 0.05  # relative; int8 activations alone cost about 0.01, one wrong row of 64 costs 0.17
PROBE_FILE = ".probe.onnx"


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows of a matrix, all of one part."""

    matrix: Matrix  # narrowed to the slice
    part: Part
    start: int  # of the part
    stop: int


def check_structure(graph_path: Path, data_bytes: int) -> None:
    """ExportError where ONNX Runtime refuses the graph or an initializer lies outside the data file.

    The weights become inputs for this, so that the whole graph is resolved without reading them.
    """
    model = onnx.load(str(graph_path), load_external_data=False)
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place and int(place["offset"]) + int(place["length"]) > data_bytes:
            raise ExportError(f"initializer {tensor.name} ends beyond the data file of {data_bytes} bytes")
        if place:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inline = [tensor for tensor in model.graph.initializer if not tensor.external_data]
    del model.graph.initializer[:]
    model.graph.initializer.extend(inline)
    _open(model.SerializeToString())


def check_matrices(directory: Path, data_file: str, matrices: list[Matrix], tensors: Tensors) -> Iterator[int]:
    """Runs slices of all matrices, yielding the bytes of the matrices done; ExportError names one that fails."""
    for matrix in matrices:
        slices = list(_slices(matrix))
        for first in range(0, len(slices), BATCH):
            _check_batch(directory, data_file, slices[first : first + BATCH], tensors)
        yield matrix.num_bytes


def check_embedding(directory: Path, data_file: str, matrix: Matrix, tensors: Tensors) -> None:
    """Gathers the first and last rows of the embedding; ExportError where they differ from the checkpoint's."""
    for piece in _slices(matrix):
        graph = Graph(data_file)
        rows = piece.matrix.num_outputs
        graph.add_input("ids", "int64", ["S"])
        graph.add_output("y", "float32", ["S", piece.matrix.layout.num_inputs])
        gather(graph, "y", "ids", piece.matrix)
        (got,) = run_graph(directory, graph, {"ids": np.arange(rows, dtype=np.int64)})
        _compare(piece, got, _weights(tensors, piece))


def check_vectors(path: Path, vectors: list[Vector], tensors: Tensors) -> None:
    """Reads all vectors back from the data file; ExportError where one is not the checkpoint's."""
    with path.open("rb") as file:
        for vector in vectors:
            file.seek(vector.region.offset)
            if file.read(vector.region.num_bytes) != vector.read(tensors).tobytes():
                names = ", ".join(name for part in vector.parts[:1] for name in part.tensors)
                raise ExportError(
                    f"tensor {names}: the converted values are not the checkpoint's; nothing was published"
                )


def _slices(matrix: Matrix) -> Iterator[Slice]:
    row = 0
    for part in matrix.parts:
        stop = min(part.num_rows, part.head_dim or SLICE_ROWS)
        yield _narrowed(matrix, row, part, 0, stop)
        row += part.num_rows
    part = matrix.parts[-1]
    start = part.num_rows - min(part.num_rows, part.head_dim or SLICE_ROWS)
    yield _narrowed(matrix, row - part.num_rows, part, start, part.num_rows)


def _narrowed(matrix: Matrix, part_row: int, part: Part, start: int, stop: int) -> Slice:
    layout, first, rows = matrix.layout, part_row + start, stop - start

    def cut(region: Region, row_bytes: int) -> Region:
        return Region(region.offset + first * row_bytes, rows * row_bytes)

    return Slice(
        replace(
            matrix,
            num_outputs=rows,
            codes=cut(matrix.codes, layout.code_bytes),
            scales=cut(matrix.scales, layout.scale_bytes),
            zero_points=cut(matrix.zero_points, layout.zero_point_bytes) if matrix.zero_points else None,
            offsets=cut(matrix.offsets, layout.offset_bytes) if matrix.offsets else None,
        ),
        part,
        start,
        stop,
    )


def _check_batch(directory: Path, data_file: str, slices: list[Slice], tensors: Tensors) -> None:
    graph = Graph(data_file)
    num_inputs = slices[0].matrix.layout.num_inputs
    graph.add_input("x", "float32", [1, "S", num_inputs])
    for i, piece in enumerate(slices):
        multiply(graph, f"y{i}", "x", piece.matrix)
        graph.add_output(f"y{i}", "float32", [1, "S", piece.matrix.num_outputs])
    weights = [_weights(tensors, piece) for piece in slices]
    generator = np.random.default_rng(0)
    probes = [generator.standard_normal((1, rows, num_inputs), np.float32) + np.float32(0.25) for rows in PROBES]
    for x, outputs in zip(probes, _run_each(directory, graph, [{"x": x} for x in probes]), strict=True):
        for piece, w, y in zip(slices, weights, outputs, strict=True):
            _compare(piece, y[0], np.einsum("sk,nk->sn", x[0], w))


def _weights(tensors: Tensors, piece: Slice) -> Floats:
    w = read_weights(tensors, piece.part, piece.start, piece.stop, piece.matrix.layout)
    release(tensors, piece.part)
    return w


def run_graph(directory: Path, graph: Graph, feeds: Mapping[str, np.ndarray]) -> list[Floats]:
    """The outputs of a graph whose data file, where it needs one, lies in `directory`. ExportError where it fails."""
    return _run_each(directory, graph, [feeds])[0]


def _run_each(directory: Path, graph: Graph, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[list[Floats]]:
    """As run_graph, for each of `feeds`."""
    path = directory / PROBE_FILE
    path.write_bytes(graph.model("hearth verify").SerializeToString())
    try:
        session = _open(str(path))
        with _explained():
            return [session.run(None, dict(feed)) for feed in feeds]
    finally:
        path.unlink(missing_ok=True)


def _open(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what is logged below that is raised too
    with _explained():
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ExportError(f"ONNX Runtime refuses a part of the converted model: {error}") from error


def _compare(piece: Slice, got: Floats, want: Floats) -> None:
    size = float(np.linalg.norm(want))
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.linalg.norm(got - want)) / size if size else float(np.abs(got).max())
    if not error <= MAX_ERROR:
        raise ExportError(
            f"tensor {piece.part.tensor}, rows {piece.start}..{piece.stop}: the converted weights give results that "
            f"differ by {error:.3g} (at most {MAX_ERROR} is allowed); nothing was published"
        )
