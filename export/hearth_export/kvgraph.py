"""A decoder's graph again, with keys and values held as int8: a quarter of the KV cache's memory.

ONNX Runtime's GroupQueryAttention writes round(x / scale) and reads codes times scale, with a scale a channel. The
scales are inputs, for they are found on the device, by the first runner that wants them.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from hearth_export.spec import ModelSpec
from hearthd.store import variant

K_SCALE, V_SCALE = 12, 13  # places among the operator's inputs


def with_int8_cache(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """A copy of a decoder's model whose past and present are int8, with two more inputs a layer: their scales."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    for layer, node in enumerate(attentions):
        _quantize(node, layer)
        for kind in ("key", "value"):
            shape = [1, spec.num_kv_heads, 1, spec.head_dim]
            name = variant.scale_name(layer, kind)
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    held = {name for layer in range(len(attentions)) for name in _cache_names(layer)}
    for value in (*graph.input, *graph.output):
        if value.name in held:
            value.type.tensor_type.elem_type = TensorProto.INT8
    return copy


def _quantize(node: onnx.NodeProto, layer: int) -> None:
    node.input.extend([""] * (K_SCALE - len(node.input)))
    node.input.extend([variant.scale_name(layer, "key"), variant.scale_name(layer, "value")])
    for name, value in (("k_quant_type", "PER_CHANNEL"), ("v_quant_type", "PER_CHANNEL"), ("kv_cache_bit_width", 8)):
        node.attribute.append(helper.make_attribute(name, value))


def _cache_names(layer: int) -> list[str]:
    return [named(layer, kind) for named in (variant.past_name, variant.present_name) for kind in ("key", "value")]
