"""Norms of hidden states, alone or with the residual that is added before."""

from __future__ import annotations

from hearth_export.graph import MICROSOFT
from hearth_export.quantize import Part
from hearth_export.spec import Norm
from hearth_export.weights import Weights


def normalise(weights: Weights, name: str, tensor: str, x: str, size: int, kind: Norm, epsilon: float) -> str:
    """The norm of x (.., size) as the value `name`; `tensor` names its weight, and its bias where there is one."""
    inputs = [x, *_parameters(weights, name, tensor, size, kind)]
    op = "SimplifiedLayerNormalization" if kind is Norm.RMS else "LayerNormalization"
    return weights.graph.node(op, name, inputs, axis=-1, epsilon=epsilon)


def add_and_normalise(
    weights: Weights, name: str, tensor: str, x: str, residual: str, size: int, kind: Norm, epsilon: float
) -> tuple[str, str]:
    """(the norm of x + residual, that sum); x itself is the sum where there is no residual."""
    if not residual:
        return normalise(weights, name, tensor, x, size, kind, epsilon), x
    inputs = [residual, x, *_parameters(weights, name, tensor, size, kind)]
    outputs = [name, "", "", f"{name}.residual"]
    op = "SkipSimplifiedLayerNormalization" if kind is Norm.RMS else "SkipLayerNormalization"
    weights.graph.node(op, name, inputs, outputs, domain=MICROSOFT, epsilon=epsilon)
    return name, outputs[3]


def _parameters(weights: Weights, name: str, tensor: str, size: int, kind: Norm) -> list[str]:
    parameters = [weights.vector(f"{name}.weight", (Part(f"{tensor}.weight", size),))]
    if kind is Norm.LAYER and weights.has(f"{tensor}.bias"):
        parameters.append(weights.vector(f"{name}.bias", (Part(f"{tensor}.bias", size),)))
    return parameters
