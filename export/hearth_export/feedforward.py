"""A decoder layer's feed-forward network, gated or not."""

from __future__ import annotations

from typing import Any

from hearth_export.graph import MICROSOFT
from hearth_export.quantize import Part
from hearth_export.spec import Activation, ModelSpec
from hearth_export.weights import Weights

# operator, domain, attributes; QuickGelu with alpha 1 is x * sigmoid(x)
ACTIVATIONS: dict[Activation, tuple[str, str, dict[str, Any]]] = {
    Activation.SILU: ("QuickGelu", MICROSOFT, {"alpha": 1.0}),
    Activation.GELU: ("Gelu", MICROSOFT, {}),
    Activation.GELU_TANH: ("FastGelu", MICROSOFT, {}),
    Activation.RELU: ("Relu", "", {}),
}


def feed_forward(weights: Weights, spec: ModelSpec, layer: int, x: str) -> str:
    """What the network adds to the residual, (B, S, hidden_size)."""
    name = f"layer.{layer}"
    inner = _gated(weights, spec, layer, x) if spec.gated else _plain(weights, spec, layer, x)
    down = Part(f"blk.{layer}.ffn_down.weight", spec.hidden_size)
    return weights.linear(f"{name}.down", inner, (down,), weights.layout(down, spec.ffn_size))


def activate(weights: Weights, name: str, x: str, activation: Activation) -> str:
    """The activation of x as the value `name`."""
    op, domain, attributes = ACTIVATIONS[activation]
    return weights.graph.node(op, name, [x], domain=domain, **attributes)


def _gated(weights: Weights, spec: ModelSpec, layer: int, x: str) -> str:
    graph, name = weights.graph, f"layer.{layer}"
    values = weights.fused(f"{name}.gate_up", x, _gate_and_up(weights, spec, layer), spec.hidden_size)
    if len(values) == 1:
        halves = [f"{name}.gate", f"{name}.up"]
        graph.node("Split", f"{name}.split", values, halves, axis=-1, num_outputs=2)
        values = halves
    gate = activate(weights, f"{name}.{spec.activation}", values[0], spec.activation)
    return graph.node("Mul", f"{name}.gated", [gate, values[1]])


def _gate_and_up(weights: Weights, spec: ModelSpec, layer: int) -> tuple[Part, ...]:
    gate, up = f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.ffn_up.weight"
    if not weights.has(gate):
        return (Part(up, 2 * spec.ffn_size),)
    return (Part(gate, spec.ffn_size), Part(up, spec.ffn_size))


def _plain(weights: Weights, spec: ModelSpec, layer: int, x: str) -> str:
    name, up = f"layer.{layer}", Part(f"blk.{layer}.ffn_up.weight", spec.ffn_size)
    inner = weights.linear(f"{name}.up", x, (up,), weights.layout(up, spec.hidden_size))
    return activate(weights, f"{name}.{spec.activation}", inner, spec.activation)
