"""A decoder layer's mixture of experts.

ONNX Runtime's CPU kernels want the rows of gate and up to alternate, know one width of codes and one block for all
matrices of a layer, and no offsets; QMoE always makes the chosen weights add up to 1, unless it is given all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hearth_export.errors import BadCheckpoint, UnsupportedModel, missing
from hearth_export.graph import MICROSOFT
from hearth_export.linear import ACCURACY_INT8, multiply
from hearth_export.precision import Goal, Holder, Layout, common_layout
from hearth_export.quantize import Matrix, Part
from hearth_export.spec import Activation, Experts, ModelSpec
from hearth_export.weights import Weights

ROUTER_WEIGHTS = 14  # its place among the operator's inputs


def mix_experts(weights: Weights, spec: ModelSpec, experts: Experts, layer: int, x: str) -> str:
    """What the chosen experts add to the residual, (B, S, hidden_size)."""
    if spec.activation is not Activation.SILU or not spec.gated:
        raise UnsupportedModel(
            f"{spec.architecture}: experts with the activation {spec.activation} cannot be converted"
        )
    name = f"layer.{layer}.experts"
    routed = _route(weights, spec, experts, layer, x)
    gate_up, down = _matrices(weights, spec, experts, layer)
    if gate_up.layout.holder is Holder.FLOAT:
        inputs = [x, routed, *_floats(weights, experts, gate_up), *_floats(weights, experts, down)]
        return _node(weights, "MoE", name, inputs, experts, normalize_routing_weights=int(experts.normalised))
    inputs = [x, routed, *_codes(weights, experts, gate_up), *_codes(weights, experts, down)]
    if not experts.normalised:
        inputs += [""] * (ROUTER_WEIGHTS - len(inputs))
        inputs.append(weights.graph.node("Softmax", f"{name}.shares", [routed], axis=-1))
    return _node(
        weights,
        "QMoE",
        name,
        inputs,
        experts,
        normalize_routing_weights=int(experts.normalised),
        expert_weight_bits=gate_up.layout.bits,
        block_size=gate_up.layout.block,
        weights_prepacked=0,
        accuracy_level=ACCURACY_INT8,
    )


def _node(weights: Weights, op: str, name: str, inputs: list[str], experts: Experts, **attributes: Any) -> str:
    if experts.swiglu_limit:
        attributes["swiglu_limit"] = experts.swiglu_limit
    while not inputs[-1]:
        inputs.pop()
    return weights.graph.node(
        op,
        name,
        inputs,
        domain=MICROSOFT,
        k=experts.num_used,
        activation_type="swiglu",
        swiglu_fusion=1,  # rows of gate and up alternate
        activation_alpha=experts.swiglu_alpha,
        activation_beta=experts.swiglu_beta,
        **attributes,
    )


def _route(weights: Weights, spec: ModelSpec, experts: Experts, layer: int, x: str) -> str:
    """The router's logits, (B * S, num)."""
    graph, name = weights.graph, f"layer.{layer}.router"
    part = Part(f"blk.{layer}.ffn_gate_inp.weight", experts.num)
    matrix = weights.plan(name, (part,), weights.layout(part, spec.hidden_size, Goal.FLOAT))
    logits = multiply(graph, name, x, matrix, weights.bias(name, (part,)))
    shape = graph.constant("router_shape", np.array([-1, experts.num], np.int64))
    return graph.node("Reshape", f"{name}.flat", [logits, shape])


def _matrices(weights: Weights, spec: ModelSpec, experts: Experts, layer: int) -> tuple[Matrix, Matrix]:
    """Gate and up together, and down, each of all experts and held alike."""
    name, prefix = f"layer.{layer}.experts", f"blk.{layer}"
    gate, up, down = (f"{prefix}.ffn_{kind}_exps.weight" for kind in ("gate", "up", "down"))
    layout = common_layout(
        [
            _layout(weights, gate, experts, experts.ffn_size, spec.hidden_size),
            _layout(weights, up, experts, experts.ffn_size, spec.hidden_size),
            replace(_layout(weights, down, experts, spec.hidden_size, experts.ffn_size), num_inputs=spec.hidden_size),
        ]
    )
    each = range(experts.num)
    gates_ups = tuple(Part(gate, 2 * experts.ffn_size, expert=expert, mate=up) for expert in each)
    downs = tuple(Part(down, spec.hidden_size, expert=expert) for expert in each)
    return (
        weights.plan(f"{name}.gate_up", gates_ups, layout),
        weights.plan(f"{name}.down", downs, replace(layout, num_inputs=experts.ffn_size)),
    )


def _layout(weights: Weights, tensor: str, experts: Experts, num_rows: int, num_inputs: int) -> Layout:
    """How a tensor is held without offsets, its shape and that of its bias checked on the way."""
    _check_shape(weights, tensor, (experts.num, num_rows, num_inputs))
    bias = tensor.removesuffix("weight") + "bias"
    if weights.has(bias):
        _check_shape(weights, bias, (experts.num, num_rows))
    return weights.layout(Part(tensor, num_rows, expert=0), num_inputs, Goal.PREFILL)


def _check_shape(weights: Weights, name: str, expected: tuple[int, ...]) -> None:
    info = weights.tensors.tensors.get(name)
    if info is None:
        raise missing(name)
    if info.shape != expected:
        raise BadCheckpoint(f"tensor {name} has the shape {info.shape}, expected {expected}")


def _floats(weights: Weights, experts: Experts, matrix: Matrix) -> list[str]:
    rows = matrix.num_outputs // experts.num
    shape = [experts.num, rows, matrix.layout.num_inputs]
    held = weights.graph.external(f"{matrix.name}.weights", "float32", shape, matrix.codes)
    return [held, weights.bias(matrix.name, matrix.parts, (experts.num, rows))]


def _codes(weights: Weights, experts: Experts, matrix: Matrix) -> list[str]:
    graph, layout, rows = weights.graph, matrix.layout, matrix.num_outputs // experts.num
    codes = graph.external(f"{matrix.name}.codes", "uint8", [experts.num, rows, layout.code_bytes], matrix.codes)
    scales = graph.external(f"{matrix.name}.scales", "float32", [experts.num, rows, layout.num_blocks], matrix.scales)
    return [codes, scales, weights.bias(matrix.name, matrix.parts, (experts.num, rows))]
