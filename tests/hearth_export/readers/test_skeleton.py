from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.skeleton import MAX_BYTES, SMALL_BYTES, read_skeleton


def model(size: int) -> onnx.ModelProto:
    """It adds a constant of that many floats."""
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [size])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [size])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "adds", [value], [result])
    graph.initializer.append(numpy_helper.from_array(np.arange(size, dtype=np.float32), "w"))
    return helper.make_model(graph)


def test_large_weights_are_left_out_and_all_else_is_kept(tmp_path: Path) -> None:
    whole = model(1 << 20)
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    skeleton = read_skeleton(path)
    (tensor,) = skeleton.graph.initializer
    assert (tensor.name, list(tensor.dims), tensor.data_type) == ("w", [1 << 20], onnx.TensorProto.FLOAT)
    assert not tensor.raw_data
    assert skeleton.ByteSize() < 1024
    for part in (skeleton, whole):
        del part.graph.initializer[:]
    assert skeleton == whole


def test_small_weights_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(SMALL_BYTES // 8).SerializeToString())
    assert read_skeleton(path) == model(SMALL_BYTES // 8)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80" * 20, b"\xff\xff\xff", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x3b", b"not a model"],
    ids=["empty", "endless number", "cut number", "graph beyond the file", "unknown kind", "text"],
)
def test_what_is_no_model_is_refused_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"model\.onnx: is no ONNX model"):
        read_skeleton(path)


def test_graph_that_hides_weights_in_its_nodes_is_refused(tmp_path: Path) -> None:
    whole = model(8)
    constant = numpy_helper.from_array(np.zeros(MAX_BYTES // 4, np.float32), "c")
    whole.graph.node.append(helper.make_node("Constant", [], ["c"], value=constant))
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(BadCheckpoint, match="64 MiB beside the initializers"):
        read_skeleton(path)


def test_missing_file_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"model\.onnx: cannot be read"):
        read_skeleton(tmp_path / "model.onnx")
