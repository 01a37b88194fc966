"""The matrices of a float graph become MatMulNBits: codes in blocks of 32 columns with a scale each.

As ONNX Runtime's ContribOperators.md has it: B is (N, blocks, bytes of a block), codes around the middle of their range
where there are no zero points. GatherBlockQuantized reads the same bytes as (N, K).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

BLOCK = 32
DOMAIN = "com.microsoft"
INT8_ACCURACY = 4  # of accuracy_level: int8 arithmetic
MIN_ELEMENTS = 1024  # smaller matrices are not worth a node of another kind

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


def quantize_graph(model: onnx.ModelProto, bits: int) -> int:
    """Replaces, in place, MatMul and Gemm with a constant matrix, and lookups in a table; how many there were.

    Tables, and the heads tied to them, get 8 bits whatever `bits` (4 or 8) is.
    """
    quantizer = _Quantizer(model, bits)
    quantizer.run()
    return quantizer.count


class _Quantizer:
    def __init__(self, model: onnx.ModelProto, bits: int) -> None:
        self.graph = model.graph
        self.bits = bits
        self.count = 0
        self._made: dict[str, str] = {}  # of rows that have been quantized: their content -> the name of the codes
        self._initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self._transposed = {
            node.output[0]: node.input[0]
            for node in self.graph.node
            if node.op_type == "Transpose" and node.input[0] in self._initializers
        }
        if all(entry.domain != DOMAIN for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))

    def run(self) -> None:
        nodes = list(self.graph.node)
        for node in nodes:  # first, for heads may share what these hold
            if node.op_type == "Gather":
                self._replace(node, self._gather(node))
        for node in nodes:
            if node.op_type in ("MatMul", "Gemm"):
                self._replace(node, self._product(node))
        self._drop_unused()

    def _replace(self, node: onnx.NodeProto, made: list[onnx.NodeProto]) -> None:
        if not made:
            return
        self.count += 1
        place = list(self.graph.node).index(node)
        self.graph.node.remove(node)
        for offset, new in enumerate(made):
            self.graph.node.insert(place + offset, new)

    def _gather(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        table = self._rows(node.input[0])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if table is None or axis != 0 or table.shape[1] % BLOCK or "pos" in node.input[0] or "wpe" in node.input[0]:
            return []
        codes, scales = self._quantized(node.input[0], table, 8)
        flat = f"{codes}.rows"
        self._add(flat, numpy_helper.to_array(self._initializers[codes]).reshape(len(table), -1))
        inputs = [flat, node.input[1], scales]
        return [
            helper.make_node(
                "GatherBlockQuantized", inputs, node.output, f"{node.output[0]}.quantized", domain=DOMAIN,
                gather_axis=0, quantize_axis=1, block_size=BLOCK, bits=8,
            )
        ]  # fmt: skip

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            return []
        rows = self._rows(node.input[1], transposed=not attributes.get("transB", 0))
        if rows is None:
            return []
        codes, scales = self._quantized(node.input[1], rows, self.bits)
        has_bias = len(node.input) > 2 and node.input[2] != ""
        product = f"{node.output[0]}.product" if has_bias else node.output[0]
        bits = self._bits_of(codes, rows.shape[1])
        made = [
            helper.make_node(
                "MatMulNBits", [node.input[0], codes, scales], [product], f"{node.output[0]}.quantized", domain=DOMAIN,
                N=rows.shape[0], K=rows.shape[1], bits=bits, block_size=BLOCK, accuracy_level=INT8_ACCURACY,
            )
        ]  # fmt: skip
        return made + ([helper.make_node("Add", [product, node.input[2]], node.output)] if has_bias else [])

    def _bits_of(self, codes: str, num_inputs: int) -> int:
        return 8 * self._initializers[codes].dims[2] // BLOCK if num_inputs else 8

    def _rows(self, name: str, *, transposed: bool = False) -> Floats | None:
        """The outputs' rows of a constant matrix; None where it is none, or too small."""
        source = self._transposed.get(name)
        tensor = self._initializers.get(source or name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
            return None
        values = numpy_helper.to_array(tensor)
        if values.size < MIN_ELEMENTS:
            return None
        return np.ascontiguousarray(values.T if transposed == (source is None) else values)

    def _quantized(self, name: str, rows: Floats, bits: int) -> tuple[str, str]:
        """The names of codes and scales; those of the same rows where there are some, in whatever bits."""
        content = f"{rows.shape}:{hash(rows.tobytes())}"
        codes = self._made.get(content)
        if codes is None:
            codes = self._made[content] = f"{name}.codes.{len(self._made)}"
            packed, scales = quantized(rows, bits)
            self._add(codes, packed)
            self._add(f"{codes}.scales", scales)
        return codes, f"{codes}.scales"

    def _add(self, name: str, values: NDArray[np.generic]) -> None:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(values, name)
            self.graph.initializer.append(self._initializers[name])

    def _drop_unused(self) -> None:
        used = set(_used(self.graph))
        for node in [node for node in self.graph.node if node.op_type == "Transpose"]:
            if not used & set(node.output):
                self.graph.node.remove(node)
        used = set(_used(self.graph))
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that nodes and outputs ask for, in subgraphs too."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _used(attribute.g)


def quantized(rows: Floats, bits: int) -> tuple[Codes, Floats]:
    """Codes (N, blocks, bytes) and scales (N, blocks) of rows (N, K), the last block filled up with zeros."""
    num_rows, num_inputs = rows.shape
    num_blocks = -(-num_inputs // BLOCK)
    padded = np.zeros((num_rows, num_blocks * BLOCK), np.float32)
    padded[:, :num_inputs] = rows
    blocks = padded.reshape(num_rows, num_blocks, BLOCK)
    middle = 1 << (bits - 1)
    widest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[:, :, None], axis=2)
    # the widest value gets the lowest code, which the other side lacks; 8 bits need it not
    scales = widest / -middle if bits == 4 else np.abs(widest) / (middle - 1)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.clip(np.rint(blocks * inverse) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[:, :, ::2] | codes[:, :, 1::2] << 4
    return codes, scales.reshape(num_rows, num_blocks).astype(np.float32)
