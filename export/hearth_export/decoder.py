"""ModelSpec + tensors -> the graph of a decoder, with every weight planned into the data file.

The graph is the one that measured fastest on ONNX Runtime's CPU provider: integer codes for every matrix, q/k/v and
gate/up fused where they are held alike, GroupQueryAttention with rotary inside, the residual carried by
SkipSimplifiedLayerNormalization, and only the wanted rows taken to the last norm and the head. What a spec does not ask
for leaves no node behind.
"""

from __future__ import annotations

import numpy as np

from hearth_export.attention import attend, check_heads
from hearth_export.experts import mix_experts
from hearth_export.feedforward import feed_forward
from hearth_export.linear import gather, multiply
from hearth_export.norm import add_and_normalise, normalise
from hearth_export.precision import Goal
from hearth_export.quantize import Matrix, Part
from hearth_export.spec import ModelSpec
from hearth_export.weights import Weights
from hearthd.store import variant

HEAD_GOAL = Goal.PREFILL  # a head without block means: there may be no row at all to take them of


class Decoder:
    """A graph under construction: it grows in `weights.graph`, with every weight planned into `weights`."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self.spec = spec
        self.graph = weights.graph
        self.weights = weights

    def build(self) -> None:
        """Appends all nodes. Raises ExportError for a tensor that is missing, of another shape or without a place."""
        spec = self.spec
        check_heads(spec)
        self._inputs()
        embedding = self.weights.embedding("embedding", "token_embd.weight", spec.vocab_size, spec.hidden_size)
        hidden, residual = gather(self.graph, "embedding", variant.INPUT_IDS, embedding), ""
        hidden = self._scaled(hidden, spec.embedding_scale)
        for layer in range(spec.num_layers):
            hidden, residual = self._layer(layer, hidden, residual)
        self._head(embedding, hidden, residual)
        kind = f"a decoder of architecture {spec.architecture} with {spec.num_layers} layers"
        self.weights.refuse_unused(kind, spec.read_tensors)

    def _inputs(self) -> None:
        graph, spec = self.graph, self.spec
        graph.add_input(variant.INPUT_IDS, "int64", ["B", "S"])
        graph.add_input(variant.SEQLENS_K, "int32", ["B"])
        graph.add_input(variant.TOTAL_LENGTH, "int32", [1])
        graph.add_input(variant.ROWS, "int64", ["R"])
        for index, rope in enumerate(spec.ropes):
            for name in (variant.cos_name(index), variant.sin_name(index)):
                graph.add_input(name, "float32", ["C", len(rope.inv_freq)])
        cache: list[int | str] = ["B", spec.num_kv_heads, "L", spec.head_dim]
        places = [(layer, kind) for layer in range(spec.num_layers) for kind in ("key", "value")]
        for layer, kind in places:
            graph.add_input(variant.past_name(layer, kind), "float32", cache)
        graph.add_output(variant.LOGITS, "float32", ["R", spec.vocab_size])
        graph.add_output(variant.HIDDEN, "float32", ["R", spec.hidden_size])
        for layer, kind in places:
            graph.add_output(variant.present_name(layer, kind), "float32", cache)

    def _layer(self, layer: int, hidden: str, residual: str) -> tuple[str, str]:
        """One decoder layer; what it adds and the residual it is to be added to."""
        spec, name, prefix = self.spec, f"layer.{layer}", f"blk.{layer}"
        x, residual = self._entered(f"{name}.attention_norm", f"{prefix}.attn_norm", hidden, residual)
        hidden = attend(self.weights, spec, layer, x)
        hidden = self._left(f"{name}.attention_post_norm", f"{prefix}.post_attention_norm", hidden)
        x, residual = self._entered(f"{name}.ffn_norm", f"{prefix}.{spec.ffn_norm}", hidden, residual)
        if spec.experts and layer not in spec.dense_layers:
            hidden = mix_experts(self.weights, spec, spec.experts, layer, x)
        else:
            hidden = feed_forward(self.weights, spec, layer, x)
        return self._left(f"{name}.ffn_post_norm", f"{prefix}.post_ffw_norm", hidden), residual

    def _entered(self, name: str, tensor: str, hidden: str, residual: str) -> tuple[str, str]:
        """What a half of a layer begins with, and the residual behind it."""
        spec = self.spec
        if spec.pre_norms:
            return add_and_normalise(
                self.weights, name, tensor, hidden, residual, spec.hidden_size, spec.norm, spec.norm_epsilon
            )
        total = self.graph.node("Add", f"{name}.residual", [residual, hidden]) if residual else hidden
        return total, total

    def _left(self, name: str, tensor: str, hidden: str) -> str:
        """What a half of a layer adds to the residual."""
        spec = self.spec
        if spec.post_norms:
            hidden = normalise(self.weights, name, tensor, hidden, spec.hidden_size, spec.norm, spec.norm_epsilon)
        return self._scaled(hidden, spec.residual_scale)

    def _scaled(self, x: str, factor: float) -> str:
        if factor == 1:
            return x
        scale = self.graph.constant(f"times_{factor!r}", np.array(factor, np.float32))
        return self.graph.node("Mul", f"{x}.scaled", [x, scale])

    def _head(self, embedding: Matrix, hidden: str, residual: str) -> None:
        graph, spec = self.graph, self.spec
        total = graph.node("Add", "last.residual", [residual, hidden])
        flat = graph.constant("flat_shape", np.array([-1, spec.hidden_size], np.int64))
        total = graph.node("Reshape", "last.flat", [total, flat])
        total = graph.node("Gather", "last.rows", [total, variant.ROWS], axis=0)
        normed = normalise(
            self.weights, variant.HIDDEN, "output_norm", total, spec.hidden_size, spec.norm, spec.norm_epsilon
        )
        capped = spec.logit_softcap != 0
        changed = capped or spec.logit_scale != 1
        logits = self._logits("raw_logits" if changed else variant.LOGITS, normed, embedding)
        if not changed:
            return
        factor = spec.logit_scale / (spec.logit_softcap or 1)
        scale = graph.constant("logit_scale", np.array(factor, np.float32))
        scaled = graph.node("Mul", "scaled_logits" if capped else variant.LOGITS, [logits, scale])
        if capped:
            tanh = graph.node("Tanh", "capped_logits", [scaled])
            cap = graph.constant("logit_softcap", np.array(spec.logit_softcap, np.float32))
            graph.node("Mul", variant.LOGITS, [tanh, cap])

    def _logits(self, name: str, normed: str, embedding: Matrix) -> str:
        if self.spec.tied_head:
            return multiply(self.graph, name, normed, embedding, flat=True)
        part = Part("output.weight", self.spec.vocab_size)
        layout = self.weights.layout(part, self.spec.hidden_size, HEAD_GOAL)
        return self.weights.linear(name, normed, (part,), layout, flat=True)
