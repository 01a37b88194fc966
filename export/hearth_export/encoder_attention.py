"""An encoder layer's attention: every token sees every other of its text, or those of a window around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hearth_export.encoder_window import UNSEEN, Window
from hearth_export.graph import MICROSOFT
from hearth_export.pooling import is_full
from hearth_export.precision import Goal
from hearth_export.quantize import Part
from hearth_export.spec import EncoderSpec, Rope
from hearth_export.tables import add_computed
from hearth_export.weights import Weights
from hearthd.store import variant

# Of narrow encoders these matrices stay floats: rounding what they multiply to int8 is most of what int8 loses (short
# texts of all-MiniLM-L6-v2: least cosine 0.9987, 0.9995 with them as floats), and they are small.
MOST_HIDDEN_FLOAT = 512


class Attention:
    """The attention of all layers; what they share is in the graph once."""

    def __init__(self, weights: Weights, spec: EncoderSpec) -> None:
        self._weights = weights
        self._graph = weights.graph
        self._spec = spec
        self._windows: dict[int, Window] = {}

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
        if window:
            attended = self._window(window).attended(f"{name}.attention", self._attended, query, key, value)
            attended = pick(attended) if pick else attended
        else:
            attended = self._graph.either(
                f"{name}.attention",
                is_full(self._graph),
                lambda name: self._attended(name, [query, key, value]),
                lambda name: self._attended(name, [query, key, value, "", variant.LENGTHS]),
            )
        out = Part(f"blk.{layer}.attn_output.weight", spec.hidden_size)
        return weights.linear(f"{name}.o", attended, (out,), weights.layout(out, self._size))

    def _attended(self, name: str, inputs: list[str]) -> str:
        """With a mask of lengths or a bias ONNX Runtime makes all scores at once, without them some after others."""
        return self._graph.node(
            "MultiHeadAttention",
            name,
            inputs,
            domain=MICROSOFT,
            num_heads=self._spec.num_heads,
            scale=self._spec.head_dim**-0.5,
            mask_filter_value=UNSEEN,
        )

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

    def _window(self, window: int) -> Window:
        if window not in self._windows:
            self._windows[window] = Window(self._graph, window, self._size)
        return self._windows[window]
