"""A decoder layer's attention: projections, norms of queries and keys, GroupQueryAttention with rotary inside.

ONNX Runtime's CPU kernel takes windows, soft caps, sinks and rotary over a part of a head, over float and int8 keys and
values alike; norms of queries and keys it does not, so they are nodes of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hearth_export.errors import UnsupportedModel
from hearth_export.graph import MICROSOFT
from hearth_export.norm import normalise
from hearth_export.quantize import Part
from hearth_export.spec import ModelSpec, Norm, QKNorm, Rope
from hearth_export.weights import Weights
from hearthd.store import variant

HEAD_STEP = 16  # GroupQueryAttention with rotary refuses other heads, and rotary over other parts of a head


def check_heads(spec: ModelSpec) -> None:
    """UnsupportedModel where the attention kernel cannot run the model."""
    if not spec.causal:
        raise UnsupportedModel(f"{spec.architecture}: a decoder whose tokens see those behind them cannot be converted")
    if spec.qk_norm is not QKNorm.NONE and any(rope.rows_interleaved for rope in spec.ropes):
        raise UnsupportedModel(
            f"{spec.architecture}: norms of queries and keys whose rows alternate cannot be converted"
        )
    if not any(spec.rope_of(layer) for layer in range(spec.num_layers)):
        return
    sizes = [("attention heads", spec.head_dim)]
    sizes += [("rotary embedding", 2 * len(rope.inv_freq)) for rope in spec.ropes]
    for what, size in sizes:
        if size % HEAD_STEP or size > spec.head_dim:
            raise UnsupportedModel(
                f"{spec.architecture}: {what} of {size} values (a multiple of {HEAD_STEP} can be converted, "
                f"at most {spec.head_dim})"
            )


def attend(weights: Weights, spec: ModelSpec, layer: int, x: str) -> str:
    """What attention adds to the residual, (B, S, hidden_size); the layer's keys and values go to its present."""
    name = f"layer.{layer}"
    inputs = _projected(weights, spec, layer, x)
    if spec.qk_norm is not QKNorm.NONE:
        query, key, value = _apart(weights, spec, name, inputs)
        query = _normalised(weights, spec, layer, "q", query, spec.num_heads)
        key = _normalised(weights, spec, layer, "k", key, spec.num_kv_heads)
        inputs = [query, key, value]
    inputs += [""] * (3 - len(inputs))
    attended = _group_query_attention(weights, spec, layer, inputs)
    out = Part(f"blk.{layer}.attn_output.weight", spec.hidden_size)
    return weights.linear(f"{name}.o", attended, (out,), weights.layout(out, spec.attention_size))


def _projected(weights: Weights, spec: ModelSpec, layer: int, x: str) -> list[str]:
    """Queries, keys and values: one value that holds all, or three."""
    rope, prefix = spec.rope_of(layer), f"blk.{layer}"
    heads = spec.head_dim if rope and rope.rows_interleaved else 0
    together = f"{prefix}.attn_qkv.weight"
    if weights.has(together):
        parts: tuple[Part, ...] = (Part(together, spec.attention_size + 2 * spec.kv_size),)
        if heads:
            raise UnsupportedModel(f"tensor {together} holds queries and keys whose rows alternate: not known to exist")
    else:
        parts = (
            Part(f"{prefix}.attn_q.weight", spec.attention_size, heads),
            Part(f"{prefix}.attn_k.weight", spec.kv_size, heads),
            Part(f"{prefix}.attn_v.weight", spec.kv_size),
        )
    return weights.fused(f"layer.{layer}.qkv", x, parts, spec.hidden_size)


def _apart(weights: Weights, spec: ModelSpec, name: str, values: list[str]) -> list[str]:
    if len(values) > 1:
        return values
    graph, outputs = weights.graph, [f"{name}.q", f"{name}.k", f"{name}.v"]
    sizes = graph.constant("qkv_sizes", np.array([spec.attention_size, spec.kv_size, spec.kv_size], np.int64))
    graph.node("Split", f"{name}.qkv_apart", [values[0], sizes], outputs, axis=-1)
    return outputs


def _normalised(weights: Weights, spec: ModelSpec, layer: int, kind: str, x: str, num_heads: int) -> str:
    """Queries or keys, RMS-normalised as the spec says: (B, S, num_heads * head_dim) again."""
    graph, name, tensor = weights.graph, f"layer.{layer}.{kind}_norm", f"blk.{layer}.attn_{kind}_norm"
    width = num_heads * spec.head_dim
    if spec.qk_norm is QKNorm.WHOLE:
        return normalise(weights, name, tensor, x, width, Norm.RMS, spec.norm_epsilon)
    heads = graph.constant(f"{kind}_heads", np.array([0, 0, num_heads, spec.head_dim], np.int64))
    flat = graph.constant(f"{kind}_flat", np.array([0, 0, width], np.int64))
    by_head = graph.node("Reshape", f"{name}.heads", [x, heads])
    normed = normalise(weights, name, tensor, by_head, spec.head_dim, Norm.RMS, spec.norm_epsilon)
    return graph.node("Reshape", f"{name}.flat", [normed, flat])


def _group_query_attention(weights: Weights, spec: ModelSpec, layer: int, inputs: list[str]) -> str:
    name, rope = f"layer.{layer}.attention", spec.rope_of(layer)
    inputs = [*inputs, variant.past_name(layer, "key"), variant.past_name(layer, "value")]
    inputs += [variant.SEQLENS_K, variant.TOTAL_LENGTH, *_rotations(spec, layer, rope)]
    if spec.sinks:
        sinks = Part(f"blk.{layer}.attn_sinks.weight", spec.num_heads)
        inputs += ["", "", weights.vector(f"layer.{layer}.sinks", (sinks,))]
    while not inputs[-1]:
        inputs.pop()
    return weights.graph.node(
        "GroupQueryAttention",
        name,
        inputs,
        [name, variant.present_name(layer, "key"), variant.present_name(layer, "value")],
        domain=MICROSOFT,
        num_heads=spec.num_heads,
        kv_num_heads=spec.num_kv_heads,
        do_rotary=int(rope is not None),
        rotary_interleaved=0,
        scale=spec.attention_scale or spec.head_dim**-0.5,
        **_limits(spec, layer),
    )


def _rotations(spec: ModelSpec, layer: int, rope: Rope | None) -> list[str]:
    if rope is None:
        return ["", ""]
    index = spec.layer_ropes[layer] if spec.layer_ropes else 0
    return [variant.cos_name(index), variant.sin_name(index)]


def _limits(spec: ModelSpec, layer: int) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if spec.attention_softcap:
        limits["softcap"] = spec.attention_softcap
    if spec.window_of(layer):
        limits["local_window_size"] = spec.window_of(layer)
    return limits
