"""A decoder's graph again, with keys and values held as int8: a quarter of the KV cache's memory.

ONNX Runtime's GroupQueryAttention writes round(x / scale) and reads codes times scale, with a scale a channel. The
scales are inputs, for they are found on the device, by the first runner that wants them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hearth_export.errors import ExportError
from hearth_export.graph import Graph
from hearth_export.spec import ModelSpec
from hearth_export.verify import run_graph
from hearthd.store import variant

PAST_KEY = 3  # its place among the operator's inputs
K_SCALE = 12  # its place among the operator's inputs; that of the values' follows
NUM_TOKENS = 8  # of a check
SCALE = 4 / 127  # of standard normal numbers
MAX_ERROR = 0.05  # relative; rounding to codes costs 0.01


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


def check_attention(floats: Path, codes: Path, spec: ModelSpec) -> None:
    """Runs every kind of attention of the graphs on the same numbers; ExportError where they disagree or fail."""
    for want, got in zip(_attended(floats, spec), _attended(codes, spec), strict=True):
        error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        if not error <= MAX_ERROR:
            raise ExportError(
                f"attention over int8 keys and values differs by {error:.3g} from that over floats "
                f"(at most {MAX_ERROR} is allowed); nothing was published"
            )


def _attended(path: Path, spec: ModelSpec) -> list[NDArray[np.float32]]:
    """What each kind of attention of a graph makes of NUM_TOKENS random tokens, (1, NUM_TOKENS, attention_size)."""
    model = onnx.load(str(path), load_external_data=False)
    attentions = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    kinds = {_kind(spec, layer): node for layer, node in reversed([*enumerate(attentions)])}
    return [_run(path, node, spec) for _, node in sorted(kinds.items())]


def _kind(spec: ModelSpec, layer: int) -> tuple[int, int]:
    """What tells a layer's attention from another's."""
    return (spec.layer_ropes[layer] if spec.layer_ropes else 0, spec.window_of(layer))


def _run(path: Path, attention: onnx.NodeProto, spec: ModelSpec) -> NDArray[np.float32]:
    feeds = _probe(attention, spec)
    graph = Graph("")
    graph.nodes.append(attention)
    for name, array in feeds.items():
        graph.add_input(name, array.dtype.name, [*array.shape])
    for place, name in enumerate(attention.output):
        if place == 0:
            graph.add_output(name, "float32", [1, NUM_TOKENS, spec.attention_size])
        else:
            dtype = feeds[attention.input[PAST_KEY]].dtype.name
            graph.add_output(name, dtype, [1, spec.num_kv_heads, NUM_TOKENS, spec.head_dim])
    return run_graph(path.parent, graph, feeds)[0]


def _probe(attention: onnx.NodeProto, spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """Inputs of an attention, by name."""
    generator = np.random.default_rng(0)
    query, key, value, past_key, past_value, seqlens_k, total, *rest = attention.input
    cos, sin, _, _, sinks, *scales = (*rest, "", "", "", "", "")[: max(5, len(rest))]
    widths = {query: spec.attention_size, key: spec.kv_size, value: spec.kv_size}
    if not key:
        widths = {query: spec.attention_size + 2 * spec.kv_size}
    feeds: dict[str, NDArray[Any]] = {
        name: generator.standard_normal((1, NUM_TOKENS, width), np.float32) for name, width in widths.items()
    }
    feeds[query][..., : spec.attention_size] /= (spec.attention_scale or spec.head_dim**-0.5) * spec.head_dim**0.5
    held = np.int8 if scales else np.float32
    feeds |= {name: np.zeros((1, spec.num_kv_heads, 0, spec.head_dim), held) for name in (past_key, past_value)}
    feeds[seqlens_k] = np.array([NUM_TOKENS - 1], np.int32)
    feeds[total] = np.array([NUM_TOKENS], np.int32)
    if cos:
        feeds[cos], feeds[sin] = _rotation(spec, cos)
    if sinks:
        feeds[sinks] = generator.standard_normal(spec.num_heads, np.float32)
    feeds |= {name: np.full((1, spec.num_kv_heads, 1, spec.head_dim), SCALE, np.float32) for name in scales}
    return feeds


def _rotation(spec: ModelSpec, cos: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin of the rope whose cosines are the input `cos`, (NUM_TOKENS, rotary_dim / 2)."""
    (rope,) = (rope for index, rope in enumerate(spec.ropes) if variant.cos_name(index) == cos)
    angles = np.outer(np.arange(NUM_TOKENS), rope.inv_freq)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _quantize(node: onnx.NodeProto, layer: int) -> None:
    node.input.extend([""] * (K_SCALE - len(node.input)))
    node.input.extend([variant.scale_name(layer, "key"), variant.scale_name(layer, "value")])
    for name, value in (("k_quant_type", "PER_CHANNEL"), ("v_quant_type", "PER_CHANNEL"), ("kv_cache_bit_width", 8)):
        node.attribute.append(helper.make_attribute(name, value))


def _cache_names(layer: int) -> list[str]:
    return [named(layer, kind) for named in (variant.past_name, variant.present_name) for kind in ("key", "value")]
