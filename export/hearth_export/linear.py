"""A held matrix in the graph: the nodes that multiply by it."""

from __future__ import annotations

from hearth_export.activations import coarse_and_fine, summed
from hearth_export.graph import MICROSOFT, Graph
from hearth_export.precision import Holder, Layout
from hearth_export.quantize import Matrix

ACCURACY_INT8 = 4  # MatMulNBits quantizes activations to int8; its float path is many times slower at one row


def multiply(graph: Graph, name: str, x: str, matrix: Matrix, bias: str = "", *, flat: bool = False) -> str:
    """x @ W.T (+ bias) as the value `name`; x is (B, S, K), or (R, K) where it is `flat`, the result (.., N)."""
    if matrix.layout.holder is Holder.FLOAT:
        return _floats(graph, name, x, matrix, bias)
    product = _product(graph, f"{name}.codes_only" if matrix.offsets else name, name, x, matrix, bias, flat)
    if matrix.offsets is None:
        return product
    shape = [matrix.num_outputs, matrix.layout.num_offsets]
    offsets = graph.external(f"{name}.offsets", "float32", shape, matrix.offsets)
    means = _means(graph, x, matrix.layout.block)
    term = graph.node("FusedMatMul", f"{name}.offset_term", [means, offsets], domain=MICROSOFT, transB=1)
    return graph.node("Add", name, [product, term])


def _product(graph: Graph, output: str, name: str, x: str, matrix: Matrix, bias: str, flat: bool) -> str:
    layout = matrix.layout
    if not graph.fine or layout.holder is Holder.AUGAP:
        return _codes(graph, output, name, x, matrix, bias)
    pairs = coarse_and_fine(graph, x, layout.num_inputs, layout.block, flat=flat)
    unbiased = f"{output}.weights_only" if bias else output
    summed(graph, unbiased, _codes(graph, f"{output}.of_both", name, pairs, matrix, ""))
    return graph.node("Add", output, [unbiased, bias]) if bias else output


def _floats(graph: Graph, name: str, x: str, matrix: Matrix, bias: str) -> str:
    weights = graph.external(f"{name}.weights", "float32", [matrix.num_outputs, matrix.layout.num_inputs], matrix.codes)
    product = f"{name}.weights_only" if bias else name
    graph.node("FusedMatMul", product, [x, weights], domain=MICROSOFT, transB=1)
    return graph.node("Add", name, [product, bias]) if bias else product


def gather(graph: Graph, name: str, ids: str, matrix: Matrix) -> str:
    """The rows `ids` (..) of a matrix, (.., K), as the value `name`; its initializers are named after the matrix."""
    layout, rows = matrix.layout, matrix.num_outputs
    if layout.holder is Holder.FLOAT:
        weights = graph.external(f"{matrix.name}.weights", "float32", [rows, layout.num_inputs], matrix.codes)
        return graph.node("Gather", name, [weights, ids], axis=0)
    codes = graph.external(f"{matrix.name}.codes", "uint8", [rows, layout.num_inputs], matrix.codes)
    scales = graph.external(f"{matrix.name}.scales", "float32", [rows, layout.num_blocks], matrix.scales)
    return graph.node(
        "GatherBlockQuantized",
        name,
        [codes, ids, scales],
        domain=MICROSOFT,
        bits=8,
        block_size=layout.block,
        gather_axis=0,
        quantize_axis=1,
    )


def _codes(graph: Graph, output: str, name: str, x: str, matrix: Matrix, bias: str) -> str:
    layout, rows = matrix.layout, matrix.num_outputs
    blob_bytes = layout.code_bytes // layout.num_blocks
    inputs = [
        _widened(graph, x, layout),
        graph.external(f"{name}.codes", "uint8", [rows, layout.num_blocks, blob_bytes], matrix.codes),
        graph.external(f"{name}.scales", "float32", [rows * layout.num_blocks], matrix.scales),
    ]
    if matrix.zero_points:
        shape = [rows * layout.zero_point_bytes]
        inputs.append(graph.external(f"{name}.zero_points", "uint8", shape, matrix.zero_points))
    if bias:
        inputs += [""] * (5 - len(inputs)) + [bias]
    return graph.node(
        "MatMulNBits",
        output,
        inputs,
        domain=MICROSOFT,
        K=layout.num_columns,
        N=rows,
        bits=layout.bits,
        block_size=layout.block,
        accuracy_level=ACCURACY_INT8,
    )


def _widened(graph: Graph, x: str, layout: Layout) -> str:
    """x with its block means behind it, where the layout has columns for them."""
    if layout.holder is not Holder.AUGAP:
        return x
    name = f"{x}.with_means.{layout.block}"
    if name in graph.values:
        return name
    return graph.node("Concat", name, [x, _means(graph, x, layout.block)], axis=-1)


def _means(graph: Graph, x: str, block: int) -> str:
    """The mean of each block of x: (.., K / block)."""
    name = f"{x}.means.{block}"
    if name in graph.values:
        return name
    return graph.node("AveragePool", name, [x], kernel_shape=[block], strides=[block])
