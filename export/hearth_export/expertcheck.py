"""A check that this device's ONNX Runtime mixes experts as the graph means it.

Verification of matrices finds wrong weights; what the operator does with them is tried here, on a few random ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from hearth_export.errors import ExportError
from hearth_export.experts import ROUTER_WEIGHTS
from hearth_export.ggml import Floats, dequantize, quantize_rows
from hearth_export.graph import Graph
from hearth_export.precision import Holder, PackedRows, layout_of, pack, pack_floats
from hearth_export.spec import Experts
from hearth_export.verify import run_graph
from hearth_export.writer import DataFile

OPERATORS = ("MoE", "QMoE")
DATA_FILE = ".probe.data"
WIDTH = 256  # of the hidden state and of each expert
NUM_TOKENS = 3
MAX_ERROR = 0.05  # relative; int8 activations cost 0.01 twice


@dataclass(frozen=True, slots=True)
class Weights:
    """What the operator is given, and what that stands for."""

    w: Floats  # (experts, rows, WIDTH)
    packed: PackedRows
    bias: Floats  # (experts, rows); zeros where the operator has none


def check_experts(path: Path, experts: Experts) -> None:
    """Runs the first mixture of a graph on random weights; ExportError where it computes something else."""
    model = onnx.load(str(path), load_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    if not nodes:
        return
    node, generator, num = nodes[0], np.random.default_rng(0), experts.num_used + 1
    x = generator.standard_normal((1, NUM_TOKENS, WIDTH), np.float32)
    routed = generator.standard_normal((NUM_TOKENS, num), np.float32)
    gate_up, down = (_random(generator, node, num, rows) for rows in (2 * WIDTH, WIDTH))
    try:
        got = _run(path.parent, node, gate_up, down, {"x": x, "routed": routed, "shares": _softmax(routed)})
    finally:
        (path.parent / DATA_FILE).unlink(missing_ok=True)
    want = np.stack([_mixed(experts, gate_up, down, token, row) for token, row in zip(x[0], routed, strict=True)])
    error = float(np.linalg.norm(got[0] - want) / np.linalg.norm(want))
    if not error <= MAX_ERROR:
        raise ExportError(
            f"ONNX Runtime's {node.op_type} differs by {error:.3g} from what experts are to compute "
            f"(at most {MAX_ERROR} is allowed); nothing was published"
        )


def _random(generator: np.random.Generator, node: onnx.NodeProto, num: int, rows: int) -> Weights:
    w = generator.standard_normal((num * rows, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    packed = pack_floats(w)
    if node.op_type == "QMoE":
        facts = {attribute.name: attribute.i for attribute in node.attribute}
        blocks = quantize_rows(w, facts["expert_weight_bits"], facts["block_size"])
        w = dequantize(blocks)
        packed = pack(blocks, layout_of(Holder.EXACT, blocks.bits, blocks.block, WIDTH))
    bias = generator.standard_normal((num, rows), np.float32)
    return Weights(w.reshape(num, rows, WIDTH), packed, bias if _has_biases(node) else np.zeros_like(bias))


def _has_biases(node: onnx.NodeProto) -> bool:
    return bool(node.input[3 if node.op_type == "MoE" else 4])


def _run(
    directory: Path, node: onnx.NodeProto, gate_up: Weights, down: Weights, feeds: dict[str, Floats]
) -> NDArray[np.float32]:
    """What the node makes of random weights instead of its own."""
    constants = {**_constants("gate_up", node, gate_up), **_constants("down", node, down)}
    inputs = ["x", "routed", *(name if array is not None else "" for name, array in constants.items())]
    if len(node.input) > ROUTER_WEIGHTS:
        inputs += [""] * (ROUTER_WEIGHTS - len(inputs)) + ["shares"]
    graph = Graph(DATA_FILE)
    graph.nodes.append(_copy(node, inputs))
    feeds = {name: array for name, array in feeds.items() if name in inputs}
    for name, fed in feeds.items():
        graph.add_input(name, "float32", [*fed.shape])
    graph.add_output("y", "float32", [1, NUM_TOKENS, WIDTH])
    held = [(name, array, graph.reserve(array.nbytes)) for name, array in constants.items() if array is not None]
    for name, array, region in held:
        graph.external(name, array.dtype.name, [*array.shape], region)
    with DataFile(directory / DATA_FILE, graph.data_bytes) as file:
        for _, array, region in held:
            file.write(region.offset, array)
    return run_graph(directory, graph, feeds)[0]


def _constants(name: str, node: onnx.NodeProto, weights: Weights) -> dict[str, NDArray[np.generic] | None]:
    """The inputs that hold the weights, in the operator's order; None for one that is left out."""
    shape, packed = (*weights.w.shape[:2], -1), weights.packed
    bias = weights.bias if _has_biases(node) else None
    if packed.scales is None:
        return {name: packed.codes.view(np.float32).reshape(shape), f"{name}.bias": bias}
    return {name: packed.codes.reshape(shape), f"{name}.scales": packed.scales.reshape(shape), f"{name}.bias": bias}


def _copy(node: onnx.NodeProto, inputs: list[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(inputs)
    copy.output.append("y")
    return copy


def _mixed(experts: Experts, gate_up: Weights, down: Weights, x: Floats, routed: Floats) -> Floats:
    """What the chosen experts make of one token, (WIDTH,)."""
    chosen = np.argsort(-routed)[: experts.num_used]
    shares = _softmax(routed[chosen] if experts.normalised else routed)
    added = np.zeros(WIDTH, np.float32)
    for place, expert in enumerate(chosen):
        both = gate_up.w[expert] @ x + gate_up.bias[expert]
        gate, up = both[0::2], both[1::2]
        if experts.swiglu_limit:
            gate = np.minimum(gate, experts.swiglu_limit)
            up = np.clip(up, -experts.swiglu_limit, experts.swiglu_limit)
        inner = gate / (1 + np.exp(-experts.swiglu_alpha * gate)) * (up + experts.swiglu_beta)
        share = shares[place] if experts.normalised else shares[expert]
        added += share * (down.w[expert] @ inner.astype(np.float32) + down.bias[expert])
    return added


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(-1, keepdims=True))
    shares: Floats = e / e.sum(-1, keepdims=True)
    return shares
