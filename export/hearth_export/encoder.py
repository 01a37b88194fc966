"""EncoderSpec + tensors -> the graph of an encoder, with every weight planned into the data file.

Texts of token ids, padded to the longest, go in, a vector a text comes out. Norms take the residual with them, the
feed-forward network is gated or not, and where only one token's state is wanted, the last layer computes no other.
"""

from __future__ import annotations

import numpy as np

from hearth_export.encoder_attention import Attention
from hearth_export.feedforward import activate
from hearth_export.linear import gather
from hearth_export.norm import normalise
from hearth_export.pooling import lengths_column, mean, picked
from hearth_export.quantize import Part
from hearth_export.spec import EncoderSpec, Norm, Pooling
from hearth_export.tables import add_rows
from hearth_export.weights import Weights
from hearthd.store import variant


class Encoder:
    """A graph under construction: it grows in `weights.graph`, with every weight planned into `weights`."""

    def __init__(self, spec: EncoderSpec, weights: Weights) -> None:
        self.spec = spec
        self.weights = weights
        self.graph = weights.graph
        self._attention = Attention(self.weights, spec)

    def build(self) -> None:
        """Appends all nodes."""
        spec, graph = self.spec, self.graph
        graph.add_input(variant.INPUT_IDS, "int64", ["B", "S"])
        graph.add_input(variant.LENGTHS, "int32", ["B"])
        graph.add_output(variant.EMBEDDINGS, "float32", ["B", spec.hidden_size])
        self._sizes()
        x, residual = self._embedded(), ""
        for layer in range(spec.num_layers):
            if spec.pre_norms:
                x, residual = self._pre_norm_layer(layer, x, residual)
            else:
                x = self._post_norm_layer(layer, x)
        if spec.pre_norms:
            x, _ = self._add_and_norm("output_norm", "output_norm", x, residual)
        self._pool(x)
        self.weights.refuse_unused(spec.architecture, spec.read_tensors)

    def _sizes(self) -> None:
        """The values `num_texts` and `num_tokens`, (1,) int64: B and S."""
        graph = self.graph
        graph.node("Shape", "num_texts", [variant.INPUT_IDS], start=0, end=1)
        graph.node("Shape", "num_tokens", [variant.INPUT_IDS], start=1, end=2)

    def _embedded(self) -> str:
        """Token embeddings with all that is added to them, normalised: (B, S, hidden_size)."""
        spec, weights = self.spec, self.weights
        matrix = weights.embedding("embedding", "token_embd.weight", spec.vocab_size, spec.hidden_size)
        x = gather(self.graph, "embedded", variant.INPUT_IDS, matrix)
        if not spec.ropes:
            x = self.graph.node("Add", "with_positions", [x, self._positions()])
        if weights.has("token_types.weight"):  # every text is a first one of a pair
            first = add_rows(weights, "token_types", "token_types.weight", spec.hidden_size, 0, 1)
            x = self.graph.node("Add", "with_token_type", [x, first])
        return self._norm("embedding_norm", "token_embd_norm", x)

    def _positions(self) -> str:
        """The embeddings of the positions of the texts' tokens, (S, hidden_size)."""
        spec = self.spec
        stop = spec.first_position + spec.context_length
        table = add_rows(self.weights, "positions", "position_embd.weight", spec.hidden_size, spec.first_position, stop)
        start = self.graph.constant("first_row", np.array([0], np.int64))
        return self.graph.node("Slice", "positions.used", [table, start, "num_tokens"])

    def _post_norm_layer(self, layer: int, x: str) -> str:
        """Attention and network, each followed by the norm of what it gave and took."""
        name = f"layer.{layer}"
        attended, x = self._attend(layer, x, x)
        x, _ = self._add_and_norm(f"{name}.attention_norm", f"blk.{layer}.attn_output_norm", attended, x)
        inner = self._feed_forward(layer, x)
        x, _ = self._add_and_norm(f"{name}.output_norm", f"blk.{layer}.layer_output_norm", inner, x)
        return x

    def _pre_norm_layer(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        """What the layer adds, and to what: attention and network each see a normed sum."""
        name = f"layer.{layer}"
        if layer or self.spec.first_norm:
            normed, residual = self._add_and_norm(f"{name}.attention_norm", f"blk.{layer}.attn_norm", x, residual)
        else:
            normed = residual = x
        attended, residual = self._attend(layer, normed, residual)
        normed, residual = self._add_and_norm(f"{name}.ffn_norm", f"blk.{layer}.ffn_norm", attended, residual)
        return self._feed_forward(layer, normed), residual

    def _attend(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        """What attention gives of x, and the residual. In the last layer only of the tokens that pooling takes."""
        is_last = layer == self.spec.num_layers - 1
        if not is_last or self.spec.pooling is Pooling.MEAN:
            return self._attention.append(layer, x), residual
        rows = picked(self.graph, self.spec.pooling, self.spec.hidden_size)
        return self._attention.append(layer, x, rows), rows(residual)

    def _feed_forward(self, layer: int, x: str) -> str:
        spec, weights, name = self.spec, self.weights, f"layer.{layer}"
        up = Part(f"blk.{layer}.ffn_up.weight", spec.ffn_size)
        if spec.gated:
            inner = self._gated(layer, x)
        else:
            inner = weights.linear(f"{name}.up", x, (up,), weights.layout(up, spec.hidden_size))
            inner = activate(weights, f"{name}.{spec.activation}", inner, spec.activation)
        down = Part(f"blk.{layer}.ffn_down.weight", spec.hidden_size)
        return weights.linear(f"{name}.down", inner, (down,), weights.layout(down, spec.ffn_size))

    def _gated(self, layer: int, x: str) -> str:
        """act(gate) * up; both may be one tensor, gate first."""
        spec, weights, graph, name = self.spec, self.weights, self.graph, f"layer.{layer}"
        gate, up = f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.ffn_up.weight"
        if weights.has(gate):
            parts: tuple[Part, ...] = (Part(gate, spec.ffn_size), Part(up, spec.ffn_size))
        else:
            parts = (Part(up, 2 * spec.ffn_size),)
        values = weights.fused(f"{name}.gate_up", x, parts, spec.hidden_size)
        if len(values) == 1:
            halves = [f"{name}.gate", f"{name}.up"]
            graph.node("Split", f"{name}.split", values, halves, axis=-1, num_outputs=2)
            values = halves
        activated = activate(weights, f"{name}.{spec.activation}", values[0], spec.activation)
        return graph.node("Mul", f"{name}.gated", [activated, values[1]])

    def _pool(self, x: str) -> str:
        """The texts' vectors, (B, hidden_size)."""
        graph = self.graph
        if self.spec.pooling is Pooling.MEAN:
            return mean(graph, variant.EMBEDDINGS, x, lengths_column(graph))
        return graph.node("Squeeze", variant.EMBEDDINGS, [x, graph.constant("axis_1", np.array([1], np.int64))])

    def _norm(self, name: str, tensor: str, x: str) -> str:
        spec = self.spec
        return normalise(self.weights, name, tensor, x, spec.hidden_size, Norm.LAYER, spec.norm_epsilon)

    def _add_and_norm(self, name: str, tensor: str, x: str, residual: str) -> tuple[str, str]:
        """(the norm of x + residual, that sum): two nodes, for SkipLayerNormalization is far slower on CPUs."""
        total = self.graph.node("Add", f"{name}.sum", [x, residual]) if residual else x
        return self._norm(name, tensor, total), total
