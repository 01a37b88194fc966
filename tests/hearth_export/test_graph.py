from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from hearth_export.graph import PAGE_BYTES, PAGED_ABOVE_BYTES, Graph, Region


def test_small_initializers_are_aligned_and_large_ones_start_a_page() -> None:
    graph = Graph("data")
    assert graph.reserve(10) == Region(0, 10)
    assert graph.reserve(10) == Region(64, 10)
    large = graph.reserve(PAGED_ABOVE_BYTES + 1)
    assert (large.offset % PAGE_BYTES, large.offset > 0) == (0, True)
    assert graph.data_bytes == large.offset + large.num_bytes


def test_initializers_may_share_their_bytes(tmp_path: Path) -> None:
    graph = Graph("data")
    region = graph.reserve(16)
    graph.external("flat", "float32", [4], region)
    graph.external("square", "float32", [2, 2], region)
    graph.add_input("x", "float32", [4])
    graph.node("Add", "sum", ["x", "flat"])
    shape = graph.constant("shape", np.array([2, 2], np.int64))
    graph.node("Reshape", "sum.square", ["sum", shape])
    graph.node("MatMul", "y", ["sum.square", "square"])
    graph.add_output("y", "float32", [2, 2])
    (tmp_path / "data").write_bytes(np.array([1, 2, 3, 4], np.float32).tobytes())
    (tmp_path / "model.onnx").write_bytes(graph.model("test").SerializeToString())
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(y, np.array([[2, 3], [4, 5]]) @ np.array([[1, 2], [3, 4]]))


def test_node_with_several_outputs_is_known_by_the_first() -> None:
    graph = Graph("data")
    assert graph.node("Split", "split", ["x"], ["left", "right"]) == "left"
    assert graph.values == {"left", "right"}


def test_graph_of_a_real_model_stays_small(smollm2_variant: Path) -> None:
    assert (smollm2_variant / "model.onnx").stat().st_size < 200 << 10


def test_large_regions_of_a_real_model_start_pages(smollm2_variant: Path) -> None:
    model = onnx.load(str(smollm2_variant / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place and int(place["length"]) > PAGED_ABOVE_BYTES:
            assert int(place["offset"]) % PAGE_BYTES == 0
