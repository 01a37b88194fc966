"""ModelSpec + tensors -> the graph of a decoder, with every weight planned into the data file.

The graph is the one that measured fastest on ONNX Runtime's CPU provider: integer codes for every matrix, q/k/v and
gate/up fused where they are held alike, GroupQueryAttention with rotary inside, the residual carried by
SkipSimplifiedLayerNormalization, and only the wanted rows taken to the last norm and the head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hearth_export.errors import UnsupportedModel
from hearth_export.graph import MICROSOFT, Graph
from hearth_export.linear import gather, multiply
from hearth_export.precision import Goal, Layout
from hearth_export.quantize import (
    Matrix,
    Part,
    plan_embedding_layout,
    plan_layout,
    plan_matrix,
)
from hearth_export.spec import ModelSpec, Tensors
from hearth_export.vector import Vector, check_vector
from hearthd.store import variant

HEAD_GOAL = Goal.PREFILL  # a head without block means: there may be no row at all to take them of


@dataclass(slots=True)
class Decoder:
    """A graph under construction, and the weights that are still to be written."""

    spec: ModelSpec
    tensors: Tensors
    goal: Goal
    graph: Graph
    matrices: list[Matrix] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    holders: dict[str, str] = field(default_factory=dict)

    @property
    def gathered(self) -> list[Matrix]:
        """Matrices of which rows are gathered."""
        return self.matrices[:1]

    def build(self) -> None:
        """Appends all nodes."""
        self._inputs()
        embedding = self._embedding()
        hidden, residual = gather(self.graph, "embedding", variant.INPUT_IDS, embedding), ""
        for layer in range(self.spec.num_layers):
            hidden, residual = self._layer(layer, hidden, residual)
        self._head(embedding, hidden, residual)
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """A tensor that the graph does not use would change what the model computes."""
        pieces: list[Matrix | Vector] = [*self.matrices, *self.vectors]
        used = {part.tensor for piece in pieces for part in piece.parts}
        for name in self.tensors.tensors:
            if name not in used and name not in self.spec.read_tensors:
                raise UnsupportedModel(
                    f"tensor {name} has no place in a decoder of architecture {self.spec.architecture} "
                    f"with {self.spec.num_layers} layers: this model is of a kind that cannot be converted"
                )

    def _inputs(self) -> None:
        graph, spec = self.graph, self.spec
        graph.add_input(variant.INPUT_IDS, "int64", ["B", "S"])
        graph.add_input(variant.SEQLENS_K, "int32", ["B"])
        graph.add_input(variant.TOTAL_LENGTH, "int32", [1])
        graph.add_input(variant.ROWS, "int64", ["R"])
        for index, rope in enumerate(spec.ropes):
            for name in (variant.cos_name(index), variant.sin_name(index)):
                graph.add_input(name, "float32", ["C", len(rope.inv_freq)])
        for layer in range(spec.num_layers):
            for kind in ("key", "value"):
                shape: list[int | str] = ["B", spec.num_kv_heads, "L", spec.head_dim]
                graph.add_input(variant.past_name(layer, kind), "float32", shape)
        graph.add_output(variant.LOGITS, "float32", ["R", spec.vocab_size])
        graph.add_output(variant.HIDDEN, "float32", ["R", spec.hidden_size])
        for layer in range(spec.num_layers):
            for kind in ("key", "value"):
                graph.add_output(
                    variant.present_name(layer, kind), "float32", ["B", spec.num_kv_heads, "L", spec.head_dim]
                )

    def _embedding(self) -> Matrix:
        part = Part("token_embd.weight", self.spec.vocab_size)
        layout = plan_embedding_layout(self.tensors, part, self.spec.hidden_size, self.goal)
        self._note(part, layout)
        return self._plan("embedding", (part,), layout)

    def _layer(self, layer: int, hidden: str, residual: str) -> tuple[str, str]:
        """One decoder layer; what it adds and the residual it is to be added to."""
        name = f"layer.{layer}"
        normed, residual = self._norm(f"{name}.attention_norm", f"blk.{layer}.attn_norm.weight", hidden, residual)
        attended = self._attention(layer, name, normed)
        out = Part(f"blk.{layer}.attn_output.weight", self.spec.hidden_size)
        hidden = self._linear(f"{name}.o", attended, (out,), self._layout(out, self.spec.attention_size))
        normed, residual = self._norm(f"{name}.ffn_norm", f"blk.{layer}.ffn_norm.weight", hidden, residual)
        return self._feed_forward(layer, name, normed), residual

    def _attention(self, layer: int, name: str, x: str) -> str:
        spec = self.spec
        rope = spec.rope_of(layer)
        assert rope is not None
        heads = spec.head_dim if rope.rows_interleaved else 0
        parts = (
            Part(f"blk.{layer}.attn_q.weight", spec.attention_size, heads),
            Part(f"blk.{layer}.attn_k.weight", spec.kv_size, heads),
            Part(f"blk.{layer}.attn_v.weight", spec.kv_size),
        )
        inputs = self._fused(f"{name}.qkv", x, parts)
        inputs += [""] * (3 - len(inputs))
        inputs += [variant.past_name(layer, "key"), variant.past_name(layer, "value")]
        inputs += [variant.SEQLENS_K, variant.TOTAL_LENGTH, variant.cos_name(0), variant.sin_name(0)]
        outputs = [f"{name}.attention", variant.present_name(layer, "key"), variant.present_name(layer, "value")]
        return self.graph.node(
            "GroupQueryAttention",
            f"{name}.attention",
            inputs,
            outputs,
            domain=MICROSOFT,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
            scale=spec.head_dim**-0.5,
        )

    def _feed_forward(self, layer: int, name: str, x: str) -> str:
        graph, size = self.graph, self.spec.ffn_size
        parts = (Part(f"blk.{layer}.ffn_gate.weight", size), Part(f"blk.{layer}.ffn_up.weight", size))
        values = self._fused(f"{name}.gate_up", x, parts)
        if len(values) == 1:
            halves = [f"{name}.gate", f"{name}.up"]
            graph.node("Split", f"{name}.split", values, halves, axis=-1, num_outputs=2)
            values = halves
        gate = graph.node("QuickGelu", f"{name}.silu", [values[0]], domain=MICROSOFT, alpha=1.0)
        gated = graph.node("Mul", f"{name}.gated", [gate, values[1]])
        down = Part(f"blk.{layer}.ffn_down.weight", self.spec.hidden_size)
        return self._linear(f"{name}.down", gated, (down,), self._layout(down, size))

    def _head(self, embedding: Matrix, hidden: str, residual: str) -> None:
        graph, spec = self.graph, self.spec
        total = graph.node("Add", "last.residual", [residual, hidden])
        flat = graph.constant("flat_shape", np.array([-1, spec.hidden_size], np.int64))
        total = graph.node("Reshape", "last.flat", [total, flat])
        total = graph.node("Gather", "last.rows", [total, variant.ROWS], axis=0)
        normed, _ = self._norm(variant.HIDDEN, "output_norm.weight", total, "")
        if spec.tied_head:
            multiply(graph, variant.LOGITS, normed, embedding)
            return
        part = Part("output.weight", spec.vocab_size)
        goal = Goal.FLOAT if self.goal is Goal.FLOAT else HEAD_GOAL
        layout = plan_layout(self.tensors, part, spec.hidden_size, goal)
        self._note(part, layout)
        self._linear(variant.LOGITS, normed, (part,), layout)

    def _norm(self, name: str, weight: str, x: str, residual: str) -> tuple[str, str]:
        """RMS norm of x + residual (of x alone where there is none); (normed, the sum)."""
        scale = self._vector(f"{name}.weight", (Part(weight, self.spec.hidden_size),))
        epsilon = self.spec.norm_epsilon
        if not residual:
            return self.graph.node("SimplifiedLayerNormalization", name, [x, scale], axis=-1, epsilon=epsilon), x
        outputs = [name, "", "", f"{name}.residual"]
        self.graph.node(
            "SkipSimplifiedLayerNormalization", name, [residual, x, scale], outputs, domain=MICROSOFT, epsilon=epsilon
        )
        return name, outputs[3]

    def _fused(self, name: str, x: str, parts: tuple[Part, ...]) -> list[str]:
        """The products of x with the parts: one value where all are held alike, else one a part."""
        layouts = [self._layout(part, self.spec.hidden_size) for part in parts]
        if len(set(layouts)) == 1:
            return [self._linear(name, x, parts, layouts[0])]
        return [self._linear(f"{name}.{i}", x, (part,), layouts[i]) for i, part in enumerate(parts)]

    def _layout(self, part: Part, num_inputs: int) -> Layout:
        layout = plan_layout(self.tensors, part, num_inputs, self.goal)
        self._note(part, layout)
        return layout

    def _note(self, part: Part, layout: Layout) -> None:
        """Tells for variant.json how the tensor's block type is held; "augap+off" where not always alike."""
        block_type = self.tensors.tensors[part.tensor].type
        known = self.holders.get(block_type, layout.holder.value).split("+")
        self.holders[block_type] = "+".join(sorted({*known, layout.holder.value}))

    def _plan(self, name: str, parts: tuple[Part, ...], layout: Layout) -> Matrix:
        matrix = plan_matrix(self.graph, name, parts, layout)
        self.matrices.append(matrix)
        return matrix

    def _linear(self, name: str, x: str, parts: tuple[Part, ...], layout: Layout) -> str:
        """x @ W.T (+ bias) as the value `name`."""
        return multiply(self.graph, name, x, self._plan(name, parts, layout), self._bias(name, parts))

    def _bias(self, name: str, parts: tuple[Part, ...]) -> str:
        biases = tuple(
            Part(part.tensor.removesuffix("weight") + "bias", part.num_rows, part.head_dim) for part in parts
        )
        if not any(bias.tensor in self.tensors.tensors for bias in biases):
            return ""
        return self._vector(f"{name}.bias", biases, optional=True)

    def _vector(self, name: str, parts: tuple[Part, ...], optional: bool = False) -> str:
        for part in parts:
            check_vector(self.tensors, part, optional)
        size = sum(part.num_rows for part in parts)
        vector = Vector(self.graph.reserve(size * 4), parts, optional)
        self.vectors.append(vector)
        return self.graph.external(name, "float32", [size], vector.region)
