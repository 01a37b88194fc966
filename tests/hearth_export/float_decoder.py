"""A plain float32 decoder in numpy, for any ModelSpec: what built graphs are compared with."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from hearth_export.spec import Activation, Experts, ModelSpec, Norm, QKNorm, Rope

Floats = NDArray[np.float32]


class FloatDecoder:
    """Logits of a spec on a GGUF file's dequantized weights."""

    def __init__(self, spec: ModelSpec, path: Path) -> None:
        self._spec = spec
        reader = gguf.GGUFReader(str(path))
        self._weights: dict[str, Floats] = {
            tensor.name: np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in reader.tensors
        }

    def logits(self, tokens: list[int]) -> Floats:
        """(len(tokens), vocabulary): one evaluation of the whole sequence."""
        spec = self._spec
        x = self._weights["token_embd.weight"][tokens] * np.float32(spec.embedding_scale)
        for layer in range(spec.num_layers):
            x = x + self._half(f"blk.{layer}", layer, "attn_norm", "post_attention_norm", x)
            x = x + self._half(f"blk.{layer}", layer, spec.ffn_norm, "post_ffw_norm", x)
        logits = self._linear("token_embd" if spec.tied_head else "output", self._norm(x, "output_norm"))
        return _capped(logits * np.float32(spec.logit_scale), spec.logit_softcap)

    def _half(self, prefix: str, layer: int, before: str, behind: str, x: Floats) -> Floats:
        spec = self._spec
        if spec.pre_norms:
            x = self._norm(x, f"{prefix}.{before}")
        if before == "attn_norm":
            x = self._attention(layer, prefix, x)
        elif spec.experts and layer not in spec.dense_layers:
            x = self._experts(spec.experts, prefix, x)
        else:
            x = self._feed_forward(prefix, x)
        if spec.post_norms:
            x = self._norm(x, f"{prefix}.{behind}")
        return x * np.float32(spec.residual_scale)

    def _norm(self, x: Floats, name: str) -> Floats:
        weight, epsilon = self._weights[f"{name}.weight"].reshape(-1), np.float32(self._spec.norm_epsilon)
        if self._spec.norm is Norm.RMS:
            return _rms(x, weight, epsilon)
        x = x - x.mean(-1, keepdims=True)
        return _rms(x, weight, epsilon) + self._vector(f"{name}.bias", weight.size)

    def _vector(self, name: str, size: int) -> Floats:
        return self._weights[name].reshape(-1) if name in self._weights else np.zeros(size, np.float32)

    def _linear(self, name: str, x: Floats) -> Floats:
        weight = self._weights[f"{name}.weight"]
        product: Floats = x @ weight.T + self._vector(f"{name}.bias", len(weight))
        return product

    def _feed_forward(self, prefix: str, x: Floats) -> Floats:
        up = self._linear(f"{prefix}.ffn_up", x)
        if not self._spec.gated:
            return self._linear(f"{prefix}.ffn_down", _active(up, self._spec.activation))
        if f"{prefix}.ffn_gate.weight" in self._weights:
            gate = self._linear(f"{prefix}.ffn_gate", x)
        else:
            gate, up = np.split(up, 2, -1)
        return self._linear(f"{prefix}.ffn_down", _active(gate, self._spec.activation) * up)

    def _experts(self, experts: Experts, prefix: str, x: Floats) -> Floats:
        routed = self._linear(f"{prefix}.ffn_gate_inp", x)
        shares = _softmax(routed)
        added = np.zeros_like(x)
        for row, (token, share) in enumerate(zip(x, shares, strict=True)):
            chosen = np.argsort(-routed[row])[: experts.num_used]
            total = share[chosen].sum() if experts.normalised else np.float32(1)
            for expert in chosen:
                added[row] += share[expert] / total * self._expert(experts, prefix, int(expert), token)
        return added

    def _expert(self, experts: Experts, prefix: str, expert: int, x: Floats) -> Floats:
        def linear(kind: str, value: Floats) -> Floats:
            product: Floats = self._weights[f"{prefix}.ffn_{kind}_exps.weight"][expert] @ value
            bias = self._weights.get(f"{prefix}.ffn_{kind}_exps.bias")
            return product if bias is None else product + bias[expert]

        gate, up = linear("gate", x), linear("up", x)
        if experts.swiglu_limit:
            gate, up = np.minimum(gate, experts.swiglu_limit), np.clip(up, -experts.swiglu_limit, experts.swiglu_limit)
        active = gate / (1 + np.exp(-experts.swiglu_alpha * gate))
        return linear("down", active * (up + np.float32(experts.swiglu_beta)))

    def _attention(self, layer: int, prefix: str, x: Floats) -> Floats:
        spec, length = self._spec, len(x)
        rope = spec.rope_of(layer)
        q, k, v = self._projected(prefix, x)
        q = self._heads(f"{prefix}.attn_q_norm", q, spec.num_heads, rope)  # (heads, length, dim)
        k = self._heads(f"{prefix}.attn_k_norm", k, spec.num_kv_heads, rope)
        v = v.reshape(length, spec.num_kv_heads, -1).swapaxes(0, 1)
        group = spec.num_heads // spec.num_kv_heads
        scores = q @ k.repeat(group, 0).swapaxes(1, 2) * np.float32(spec.attention_scale or spec.head_dim**-0.5)
        scores = _capped(scores, spec.attention_softcap)
        scores[:, _hidden(length, spec.window_of(layer))] = -np.inf
        if spec.sinks:
            sinks = self._weights[f"{prefix}.attn_sinks.weight"].reshape(-1, 1, 1)
            scores = np.concatenate([scores, np.broadcast_to(sinks, (spec.num_heads, length, 1))], -1)
        mixed = _softmax(scores)[..., :length] @ v.repeat(group, 0)
        return self._linear(f"{prefix}.attn_output", mixed.swapaxes(0, 1).reshape(length, -1))

    def _projected(self, prefix: str, x: Floats) -> list[Floats]:
        spec = self._spec
        if f"{prefix}.attn_qkv.weight" in self._weights:
            borders = [spec.attention_size, spec.attention_size + spec.kv_size]
            return np.split(self._linear(f"{prefix}.attn_qkv", x), borders, -1)
        return [self._linear(f"{prefix}.attn_{kind}", x) for kind in "qkv"]

    def _heads(self, norm: str, x: Floats, num_heads: int, rope: Rope | None) -> Floats:
        spec, epsilon = self._spec, np.float32(self._spec.norm_epsilon)
        if spec.qk_norm is QKNorm.WHOLE:
            x = _rms(x, self._weights[f"{norm}.weight"].reshape(-1), epsilon)
        heads = x.reshape(len(x), num_heads, -1)
        if spec.qk_norm is QKNorm.HEAD:
            heads = _rms(heads, self._weights[f"{norm}.weight"].reshape(-1), epsilon)
        heads = heads.swapaxes(0, 1)
        return _turned(heads, rope) if rope else heads


def _turned(x: Floats, rope: Rope) -> Floats:
    """Rotary embedding of (heads, length, dim): pairs are halves apart, or neighbours where rows are interleaved."""
    angles = np.outer(np.arange(x.shape[1]), rope.inv_freq)
    cos, sin = (np.float32(rope.attention_scale) * f(angles).astype(np.float32) for f in (np.cos, np.sin))
    width = 2 * len(rope.inv_freq)
    if rope.rows_interleaved:
        one, other = x[..., 0:width:2], x[..., 1:width:2]
        turned = np.stack([one * cos - other * sin, one * sin + other * cos], -1).reshape(*x.shape[:-1], width)
    else:
        one, other = x[..., : width // 2], x[..., width // 2 : width]
        turned = np.concatenate([one * cos - other * sin, one * sin + other * cos], -1)
    return np.concatenate([turned, x[..., width:]], -1)


def _hidden(length: int, window: int) -> NDArray[np.bool_]:
    """(length, length): which positions (columns) a token (row) does not see."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return np.asarray((distance < 0) | (distance >= (window or length)))


def _rms(x: Floats, weight: Floats, epsilon: np.float32) -> Floats:
    normed: Floats = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight
    return normed


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(-1, keepdims=True))
    normed: Floats = e / e.sum(-1, keepdims=True)
    return normed


def _capped(x: Floats, cap: float) -> Floats:
    return np.float32(cap) * np.tanh(x / np.float32(cap)) if cap else x


def _active(x: Floats, activation: Activation) -> Floats:
    if activation is Activation.SILU:
        return np.asarray(x / (1 + np.exp(-x)), np.float32)
    if activation is Activation.RELU:
        return np.maximum(x, np.float32(0))
    if activation is Activation.GELU:
        return np.asarray(x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2, np.float32)
    return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), np.float32)
