"""A growing ONNX graph: nodes by operator, initializers in one external data file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 18
IR_VERSION = 10
MICROSOFT = "com.microsoft"
PAGE_BYTES = 4096
PAGED_ABOVE_BYTES = 64 << 10  # larger initializers start on a page, so that they can be mapped alone
ALIGNMENT_BYTES = 64
INLINE_BELOW_BYTES = 256

DTYPES = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
}


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of the data file."""

    offset: int
    num_bytes: int


@dataclass(slots=True)
class Graph:
    """Nodes and values of a model. Names are unique; `data_bytes` is how long the data file has become."""

    data_file: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    data_bytes: int = 0
    values: set[str] = field(default_factory=set)  # all that nodes have produced so far
    constants: set[str] = field(default_factory=set)
    opset: int = OPSET
    fine: bool = False  # whether what int8 rounds away of activations is multiplied too

    def require_opset(self, opset: int) -> None:
        """Nodes of this version of ONNX's operators are in the graph."""
        self.opset = max(self.opset, opset)

    def node(
        self,
        op: str,
        name: str,
        inputs: list[str],
        outputs: list[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Appends a node; its first output's name (`name` itself unless `outputs` are given)."""
        outputs = outputs or [name]
        self.values.update(outputs)
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def either(self, name: str, condition: str, then: Callable[[str], str], otherwise: Callable[[str], str]) -> str:
        """What `then` or `otherwise` appends, as `condition` (a bool) says when the graph runs: float32, of any shape.

        Both are given a name for what they make and return that of their result. They may use all that is there
        already; of what they append, nothing else may.
        """
        branches = {}
        for kind, build in (("then", then), ("else", otherwise)):
            outer, self.nodes = self.nodes, []
            try:
                output = helper.make_tensor_value_info(build(f"{name}.{kind}"), TensorProto.FLOAT, None)
                branches[f"{kind}_branch"] = helper.make_graph(self.nodes, f"{name}.{kind}", [], [output])
            finally:
                self.nodes = outer
        return self.node("If", name, [condition], **branches)

    def reserve(self, num_bytes: int) -> Region:
        """Room for `num_bytes` in the data file."""
        step = PAGE_BYTES if num_bytes > PAGED_ABOVE_BYTES else ALIGNMENT_BYTES
        offset = -(-self.data_bytes // step) * step
        self.data_bytes = offset + num_bytes
        return Region(offset, num_bytes)

    def external(self, name: str, dtype: str, shape: list[int], region: Region) -> str:
        """An initializer whose bytes are `region` of the data file; regions may be shared."""
        tensor = TensorProto(name=name, data_type=DTYPES[dtype], dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.data_file), ("offset", region.offset), ("length", region.num_bytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A small initializer inside the graph file itself; one that is there already is used again."""
        assert value.nbytes <= INLINE_BELOW_BYTES
        if name in self.constants:
            return name
        self.constants.add(name)
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def add_input(self, name: str, dtype: str, shape: list[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))
        return name

    def add_output(self, name: str, dtype: str, shape: list[int | str]) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))
        return name

    def model(self, producer: str) -> onnx.ModelProto:
        """The finished model; its external bytes are the caller's to write."""
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=producer)
