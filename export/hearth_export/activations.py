"""Activations beside what MatMulNBits rounds away of them: a coarse and a fine row for each.

The kernel rounds x to int8 by blocks, and the rest of each value is known beforehand: it is multiplied as a row of its
own and added to the product. The weights are read once for both rows. Kernels that round by whole rows instead
(KleidiAI's, on Arm) gain nothing from it, and lose nothing but time.
"""

from __future__ import annotations

import numpy as np

from hearth_export.graph import Graph

BLOCKED_QUANTIZE_OPSET = 21  # QuantizeLinear with a scale a block
INT8 = 3  # TensorProto.INT8
LARGEST_CODE = 127
SMALLEST_SCALE = 1e-30  # of a block of zeros


def coarse_and_fine(graph: Graph, x: str, num_inputs: int, block: int, *, flat: bool) -> str:
    """x (.., K), then what is lost of x by rounding it to int8 in blocks: twice as many along the first axis.

    x is (R, K) where it is `flat`, else (B, S, K).
    """
    name = f"{x}.coarse_and_fine.{block}"
    if name in graph.values:
        return name
    graph.require_opset(BLOCKED_QUANTIZE_OPSET)
    scales = _scales(graph, x, num_inputs, block, flat)
    rounded = f"{x}.rounded.{block}"
    codes = graph.node("QuantizeLinear", f"{rounded}.codes", [x, scales], axis=-1, block_size=block, output_dtype=INT8)
    graph.node("DequantizeLinear", rounded, [codes, scales], axis=-1, block_size=block)
    fine = graph.node("Sub", f"{x}.fine.{block}", [x, rounded])
    return graph.node("Concat", name, [x, fine], axis=0)


def summed(graph: Graph, name: str, product: str) -> str:
    """The products of the coarse and of the fine rows, added, as the value `name`."""
    halves = [f"{name}.of_coarse", f"{name}.of_fine"]
    graph.node("Split", f"{name}.halves", [product], halves, axis=0, num_outputs=2)
    return graph.node("Add", name, halves)


def _scales(graph: Graph, x: str, num_inputs: int, block: int, flat: bool) -> str:
    """What a step of int8 is worth in each block: (.., K / block)."""
    name, num_blocks = f"{x}.steps.{block}", num_inputs // block
    kept = [0] if flat else [0, 0]
    shape = graph.constant(f"blocks.{num_blocks}.{block}.{len(kept)}", np.array([*kept, num_blocks, block], np.int64))
    last = graph.constant("last_axis", np.array([-1], np.int64))
    largest_code = graph.constant("largest_code", np.array(LARGEST_CODE, np.float32))
    smallest = graph.constant("smallest_step", np.array(SMALLEST_SCALE, np.float32))
    size = graph.node("Abs", f"{name}.size", [x])
    blocks = graph.node("Reshape", f"{name}.blocks", [size, shape])
    largest = graph.node("ReduceMax", f"{name}.largest", [blocks, last], keepdims=0)
    step = graph.node("Div", f"{name}.unbounded", [largest, largest_code])
    return graph.node("Max", name, [step, smallest])
