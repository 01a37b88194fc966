from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from hearth_export.matmul_nbits import quantize_graph
from tests.hearth_export.ready_graphs import HIDDEN, decoder, weights

IDS = np.array([[5, 9, 40, 41, 17]])


def logits(model: onnx.ModelProto) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    empty = np.zeros((1, 2, 0, HIDDEN // 2), np.float32)
    feeds = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "position_ids": np.arange(IDS.size)[None]}
    feeds |= {value.name: empty for value in session.get_inputs() if "past" in value.name}
    (rows,) = session.run(["logits"], feeds)
    found: NDArray[np.float32] = rows[0]
    return found


@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (4, 0.25)])
def test_quantized_graph_computes_nearly_the_same(bits: int, most: float) -> None:
    model = decoder()
    expected = logits(model)
    assert quantize_graph(model, bits) == 6  # q, k, v, what attention gives, the head, the table of tokens
    error = np.linalg.norm(logits(model) - expected) / np.linalg.norm(expected)
    assert 0 < error <= most
    assert not {"wq", "wk", "wv", "wo", "head", "embed"} & {tensor.name for tensor in model.graph.initializer}


def test_head_tied_by_a_transposition_keeps_the_table_s_eight_bits() -> None:
    model = decoder()
    head = next(node for node in model.graph.node if "head" in node.input)
    head.input[1] = "turned"
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["embed"], ["turned"], perm=[1, 0]))
    del model.graph.initializer[[tensor.name for tensor in model.graph.initializer].index("head")]
    expected = logits(model)
    quantize_graph(model, 4)
    made = next(node for node in model.graph.node if node.output[0] == "logits")
    assert (made.op_type, {a.name: a.i for a in made.attribute}["bits"]) == ("MatMulNBits", 8)
    assert all(node.op_type != "Transpose" or node.output[0] != "turned" for node in model.graph.node)
    assert np.linalg.norm(logits(model) - expected) / np.linalg.norm(expected) <= 0.25  # layers have 4 bits


def test_columns_that_fill_no_block_are_quantized_too() -> None:
    w = weights()["wq"]  # (HIDDEN, HIDDEN)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 48])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, HIDDEN])
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y])
    matrix = np.concatenate([w, w[:16]])
    graph.initializer.append(onnx.numpy_helper.from_array(matrix, "w"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    assert quantize_graph(model, 8) == 1
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(1).standard_normal((1, 48), np.float32)
    (found,) = session.run(None, {"x": values})
    assert np.linalg.norm(found - values @ matrix) <= 0.03 * np.linalg.norm(values @ matrix)
