from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import dequantize
from hearth_export.graph import Graph
from hearth_export.precision import Goal, Holder
from hearth_export.quantize import (
    CHUNK_ELEMENTS,
    Part,
    halves_apart,
    plan_embedding_layout,
    plan_layout,
    plan_matrix,
    read_blocks,
    spans,
)
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.stream import write_matrices
from hearth_export.writer import DataFile
from tests.hearth_export.gguf_writer import Tensor, write_gguf
from tests.hearth_export.random_blocks import dequantized, random_bytes, random_weights, scaled


def opened(path: Path, *tensors: Tensor) -> GGUF:
    return open_gguf(write_gguf(path / "weights.gguf", {}, tensors))


def weights(name: str, rows: int, columns: int, block_type: str = "Q4_0") -> Tensor:
    return Tensor(
        name, (rows, columns), block_type, random_weights(block_type, rows, columns, np.random.default_rng(1))
    )


def test_interleaved_rows_come_as_halves_of_each_head() -> None:
    rows = np.arange(16, dtype=np.uint8).reshape(16, 1)
    order = halves_apart(rows, 8).reshape(-1).tolist()
    assert order == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


def test_chunks_cover_every_row_once_in_whole_heads(tmp_path: Path) -> None:
    rows, head_dim = 4096, 48
    rows -= rows % head_dim
    gguf = opened(tmp_path, weights("w", rows, 512))
    part = Part("w", rows, head_dim)
    pieces = [dequantize(read_blocks(gguf, part, start, stop)) for start, stop in spans(part, 512)]
    assert len(pieces) > 1
    assert all(start % head_dim == 0 for start, _ in spans(part, 512))
    assert max(piece.size for piece in pieces) <= CHUNK_ELEMENTS
    np.testing.assert_array_equal(np.concatenate(pieces), dequantize(read_blocks(gguf, part, 0, rows)))


def test_row_wider_than_a_chunk_is_still_read() -> None:
    assert list(spans(Part("w", 3), 2 * CHUNK_ELEMENTS)) == [(0, 1), (1, 2), (2, 3)]


def test_streamed_matrix_fills_its_regions_exactly(tmp_path: Path) -> None:
    gguf, graph = opened(tmp_path, weights("a", 40, 64, "Q4_1"), weights("b", 24, 64, "Q4_1")), Graph("data")
    parts = (Part("a", 40), Part("b", 24))
    matrix = plan_matrix(graph, "m", parts, plan_layout(gguf, parts[0], 64, Goal.FIDELITY))
    assert matrix.num_outputs == 64
    with DataFile(tmp_path / "data", graph.data_bytes) as file:
        assert sum(write_matrices([matrix], gguf, file)) == matrix.num_bytes <= graph.data_bytes
    raw = (tmp_path / "data").read_bytes()
    stored = np.frombuffer(raw, np.float32, 64 * 2, matrix.scales.offset).reshape(64, 2)
    want = [read_blocks(gguf, part, 0, part.num_rows).scale for part in parts]
    np.testing.assert_array_equal(stored, np.concatenate(want))


@pytest.mark.parametrize(
    ("block_type", "goal", "holder", "bits"),
    [
        ("Q4_0", Goal.BYTES, Holder.EXACT, 4),
        ("Q8_0", Goal.FIDELITY, Holder.EXACT, 8),
        ("F16", Goal.BYTES, Holder.EXACT, 8),
        ("Q4_K", Goal.BYTES, Holder.AUGAP, 4),
        ("Q5_K", Goal.BYTES, Holder.AUGAP, 8),
        ("Q2_K", Goal.BYTES, Holder.OFFSET, 4),
        ("Q4_K", Goal.FIDELITY, Holder.OFFSET, 4),
        ("Q4_K", Goal.PREFILL, Holder.INT8, 8),
    ],
)
def test_layout_follows_the_type_and_the_goal(
    tmp_path: Path, block_type: str, goal: Goal, holder: Holder, bits: int
) -> None:
    gguf = opened(tmp_path, weights("w", 32, 512, block_type))
    layout = plan_layout(gguf, Part("w", 32), 512, goal)
    assert (layout.holder, layout.bits, layout.num_inputs) == (holder, bits, 512)


def test_blocks_that_lie_on_one_side_of_zero_are_held_with_float_offsets(tmp_path: Path) -> None:
    raw = random_bytes("Q4_K", 32, 512, np.random.default_rng(2), one_sided=True)
    gguf = opened(tmp_path, Tensor("w", (32, 512), "Q4_K", scaled("Q4_K", raw, 1 / 512)))
    assert plan_layout(gguf, Part("w", 32), 512, Goal.BYTES).holder is Holder.OFFSET


@pytest.mark.parametrize(
    ("block_type", "holder"), [("Q4_0", Holder.EXACT), ("Q4_1", Holder.INT8), ("F32", Holder.EXACT)]
)
def test_embeddings_are_held_in_eight_bit_without_offsets(tmp_path: Path, block_type: str, holder: Holder) -> None:
    gguf = opened(tmp_path, weights("w", 8, 64, block_type))
    layout = plan_embedding_layout(gguf, Part("w", 8), 64)
    assert (layout.holder, layout.bits) == (holder, 8)


def test_rows_are_the_weights_of_the_gguf_package(tmp_path: Path) -> None:
    tensor = weights("w", 8, 512, "Q6_K")
    gguf = opened(tmp_path, tensor)
    assert isinstance(tensor.data, np.ndarray)
    want = dequantized("Q6_K", tensor.data.astype(np.uint8))
    np.testing.assert_array_equal(dequantize(read_blocks(gguf, Part("w", 8), 0, 8)), want)


def test_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="tensor v is missing"):
        plan_layout(opened(tmp_path, weights("w", 8, 64)), Part("v", 8), 64, Goal.BYTES)


@pytest.mark.parametrize(("rows", "columns"), [(9, 64), (8, 32), (64, 8)])
def test_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path: Path, rows: int, columns: int) -> None:
    with pytest.raises(BadCheckpoint, match=rf"tensor w has the shape \(8, 64\), expected \({rows}, {columns}\)"):
        plan_layout(opened(tmp_path, weights("w", 8, 64)), Part("w", rows), columns, Goal.BYTES)


@pytest.mark.parametrize("block_type", ["Q4_0", "F32", "F16"])
def test_weight_that_is_not_finite_is_refused_naming_tensor_and_row(tmp_path: Path, block_type: str) -> None:
    raw = np.frombuffer(weights("w", 8, 64, block_type).raw(), np.uint8).reshape(8, -1).copy()
    raw[3, :4] = 0xFF  # a NaN in each of these types
    gguf = opened(tmp_path, Tensor("w", (8, 64), block_type, raw))
    with pytest.raises(BadCheckpoint, match=rf"tensor w, rows 0\.\.8: row 3 block 0 of type {block_type} .*damaged"):
        read_blocks(gguf, Part("w", 8), 0, 8)


def test_type_without_unpacker_is_refused_naming_tensor_and_type(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"tensor w, .*: block type Q8_K cannot be converted"):
        plan_layout(opened(tmp_path, Tensor("w", (8, 256), "Q8_K")), Part("w", 8), 256, Goal.BYTES)


def test_float_rows_that_no_block_divides_are_refused_naming_the_tensor(tmp_path: Path) -> None:
    gguf = opened(tmp_path, Tensor("w", (8, 40), "F32", np.zeros((8, 40), np.float32)))
    with pytest.raises(UnsupportedModel, match=r"tensor w, .*: a row of 40 values does not split into blocks of 32"):
        plan_layout(gguf, Part("w", 8), 40, Goal.BYTES)
