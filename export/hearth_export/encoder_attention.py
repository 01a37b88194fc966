"""An encoder layer's attention: every token sees every other of its text, or those of a window around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hearth_export.graph import MICROSOFT
from hearth_export.pooling import positions
from hearth_export.precision import Goal
from hearth_export.quantize import Part
from hearth_export.spec import EncoderSpec, Rope
from hearth_export.tables import add_computed
from hearth_export.weights import Weights
from hearthd.store import variant

UNSEEN = -1e4  # added to a score: its exponential is zero

# Of narrow encoders these matrices stay floats: rounding what they multiply to int8 is most of what int8 loses (short
# texts of all-MiniLM-L6-v2: least cosine 0.9987, 0.9995 with them as floats), and they are small.
MOST_HIDDEN_FLOAT = 512


class Attention:
    """The attention of all layers; what they share is in the graph once."""

    def __init__(self, weights: Weights, spec: EncoderSpec) -> None:
        self._weights = weights
        self._graph = weights.graph
        self._spec = spec

    def append(self, layer: int, x: str, pick: Callable[[str], str] | None = None) -> str:
        """What attention gives of x (B, S, H), the output projection done: of all tokens, or of those `pick` takes."""
        spec, weights, name = self._spec, self._weights, f"layer.{layer}"
        query, key, value = self._projected(layer, x)
        if spec.ropes:
            rope = spec.layer_ropes[layer] if spec.layer_ropes else 0
            query, key = self._turned(rope, query), self._turned(rope, key)
        window = spec.windows[layer] if spec.windows else 0
        if pick and not window:
            query = pick(query)
        inputs = [query, key, value, "", variant.LENGTHS]
        if window:
            inputs.append(self._window(window))
        attended = self._graph.node(
            "MultiHeadAttention",
            f"{name}.attention",
            inputs,
            domain=MICROSOFT,
            num_heads=spec.num_heads,
            scale=spec.head_dim**-0.5,
            mask_filter_value=UNSEEN,
        )
        if pick and window:
            attended = pick(attended)
        out = Part(f"blk.{layer}.attn_output.weight", spec.hidden_size)
        return weights.linear(f"{name}.o", attended, (out,), weights.layout(out, self._size))

    @property
    def _size(self) -> int:
        return self._spec.num_heads * self._spec.head_dim

    def _projected(self, layer: int, x: str) -> list[str]:
        """Queries, keys and values, (B, S, num_heads * head_dim) each."""
        weights, name = self._weights, f"layer.{layer}.qkv"
        fused = f"blk.{layer}.attn_qkv.weight"
        if weights.has(fused):
            parts: tuple[Part, ...] = (Part(fused, 3 * self._size),)
        else:
            parts = tuple(Part(f"blk.{layer}.attn_{kind}.weight", self._size) for kind in "qkv")
        hidden = self._spec.hidden_size
        goal = Goal.FLOAT if hidden <= MOST_HIDDEN_FLOAT else None
        values = weights.fused(name, x, parts, hidden, goal)
        if len(values) == 3:
            return values
        thirds = [f"layer.{layer}.{kind}" for kind in "qkv"]
        self._graph.node("Split", f"{name}.split", values, thirds, axis=-1, num_outputs=3)
        return thirds

    def _turned(self, rope: int, x: str) -> str:
        """x turned by its tokens' positions."""
        cos, sin = self._rotations(rope, self._spec.ropes[rope])
        start = "first_position"
        if start not in self._graph.values:
            self._graph.values.add(self._graph.constant(start, np.array([0], np.int64)))
        attributes: dict[str, Any] = {"num_heads": self._spec.num_heads}
        turned = 2 * len(self._spec.ropes[rope].inv_freq)
        if turned < self._spec.head_dim:
            attributes["rotary_embedding_dim"] = turned
        inputs = [x, start, cos, sin]
        return self._graph.node("RotaryEmbedding", f"{x}.turned", inputs, domain=MICROSOFT, **attributes)

    def _rotations(self, index: int, rope: Rope) -> tuple[str, str]:
        """The initializers of cosines and sines, (context_length, rotary_dim / 2)."""
        names = (f"rope.{index}.cos", f"rope.{index}.sin")
        if names[0] not in self._graph.values:
            angles = np.outer(np.arange(self._spec.context_length, dtype=np.float64), np.array(rope.inv_freq))
            for name, function in zip(names, (np.cos, np.sin), strict=True):
                values = (function(angles) * rope.attention_scale).astype(np.float32)
                self._graph.values.add(add_computed(self._weights, name, values))
        return names

    def _window(self, window: int) -> str:
        """What is added to scores so that tokens see `window` // 2 others to each side, (1, 1, S, S) float32."""
        name, graph = f"window.{window}", self._graph
        if name in graph.values:
            return name
        column, row = (graph.constant(f"{name}.axis.{i}", np.array([i], np.int64)) for i in (1, 0))
        where = positions(graph)
        distances = graph.node(
            "Sub",
            f"{name}.offsets",
            [
                graph.node("Unsqueeze", f"{name}.column", [where, column]),
                graph.node("Unsqueeze", f"{name}.row", [where, row]),
            ],
        )
        distances = graph.node("Abs", f"{name}.distances", [distances])
        most = graph.constant(f"{name}.most", np.array(window // 2, np.int64))
        beyond = graph.node("Greater", f"{name}.beyond", [distances, most])
        unseen, seen = (
            graph.constant(f"{name}.{kind}", np.array(value, np.float32))
            for kind, value in (("unseen", UNSEEN), ("seen", 0))
        )
        bias = graph.node("Where", f"{name}.bias", [beyond, unseen, seen])
        axes = graph.constant(f"{name}.axes", np.array([0, 1], np.int64))
        return graph.node("Unsqueeze", name, [bias, axes])
