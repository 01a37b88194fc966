"""A plain float32 llama in numpy: the reference that converted models are compared with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.hearth_export.random_blocks import dequantized

Floats = NDArray[np.float32]


class FloatLlama:
    """Logits of a GGUF file's dequantized weights. Weights are read and expanded a layer at a time."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(str(path))
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._fields = reader.fields
        self.num_layers = self._fact("block_count")
        self.num_heads = self._fact("attention.head_count")
        self.num_kv_heads = self._fact("attention.head_count_kv")
        self.epsilon = self._fact("attention.layer_norm_rms_epsilon")
        self.freq_base = self._fact("rope.freq_base")
        self.num_trained = self._fact("context_length")

    def logits(self, tokens: list[int]) -> Floats:
        """(len(tokens), vocabulary): one evaluation of the whole sequence."""
        x = self._weight("token_embd.weight")[tokens]
        for layer in range(self.num_layers):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm.weight"))
            x = x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm.weight"))
        head = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        return self._norm(x, "output_norm.weight") @ self._weight(head).T

    def _fact(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(f"llama.{key}")
        assert field is not None or default is not None, key
        return default if field is None else field.contents()

    def _weight(self, name: str) -> Floats:
        tensor = self._tensors[name]
        return dequantized(tensor.tensor_type.name, tensor.data)

    def _norm(self, x: Floats, weight: str) -> Floats:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.epsilon))
        normed: Floats = x / scale * self._weight(weight).reshape(-1)
        return normed

    def _feed_forward(self, layer: int, x: Floats) -> Floats:
        gate = x @ self._weight(f"blk.{layer}.ffn_gate.weight").T
        up = x @ self._weight(f"blk.{layer}.ffn_up.weight").T
        added: Floats = (gate / (1 + np.exp(-gate)) * up) @ self._weight(f"blk.{layer}.ffn_down.weight").T
        return added

    def _attention(self, layer: int, x: Floats) -> Floats:
        length = len(x)
        q = self._rotated(self._heads(layer, "q", x, self.num_heads))  # (heads, length, dim)
        k = self._rotated(self._heads(layer, "k", x, self.num_kv_heads))
        v = self._heads(layer, "v", x, self.num_kv_heads)
        group = self.num_heads // self.num_kv_heads
        k, v = k.repeat(group, 0), v.repeat(group, 0)
        scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
        scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        joined = mixed.swapaxes(0, 1).reshape(length, -1)
        added: Floats = joined @ self._weight(f"blk.{layer}.attn_output.weight").T
        return added

    def _heads(self, layer: int, kind: str, x: Floats, heads: int) -> Floats:
        projected = x @ self._weight(f"blk.{layer}.attn_{kind}.weight").T
        if f"blk.{layer}.attn_{kind}.bias" in self._tensors:
            projected = projected + self._weight(f"blk.{layer}.attn_{kind}.bias").reshape(-1)
        return projected.reshape(len(x), heads, -1).swapaxes(0, 1)

    def _rotated(self, x: Floats) -> Floats:
        """Rotary embedding as llama.cpp applies it to its own row order: neighbouring values form the pairs."""
        length, dim = x.shape[1:]
        cos, sin = self.rotation(length, dim)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    def rotation(self, length: int, dim: int) -> tuple[Floats, Floats]:
        """cos and sin, (length, dim / 2), entry by entry as `rope_yarn` in llama.cpp's ggml-cpu/ops.cpp has them."""
        angles, growth = np.zeros((length, dim // 2)), 1.0
        kind = self._fact("rope.scaling.type", "linear")
        factor = self._fact("rope.scaling.factor", 1.0) if kind != "none" else 1.0
        low, high = self._yarn_borders(dim)
        for i in range(dim // 2):
            theta = np.arange(length) * float(self.freq_base) ** (-2 * i / dim)
            if "rope_freqs.weight" in self._tensors:
                theta = theta / self._weight("rope_freqs.weight").reshape(-1)[i]
            kept = 1 - min(1.0, max(0.0, (i - low) / max(0.001, high - low))) if kind == "yarn" else 0.0
            angles[:, i] = theta / factor * (1 - kept) + theta * kept
        if kind == "yarn":
            growth = self._fact("rope.scaling.attn_factor", 1.0) * (1 + 0.1 * math.log(factor))
        return (np.cos(angles) * growth).astype(np.float32), (np.sin(angles) * growth).astype(np.float32)

    def _yarn_borders(self, dim: int) -> tuple[float, float]:
        trained = self._fact("rope.scaling.original_context_length", self.num_trained)
        fast = self._fact("rope.scaling.yarn_beta_fast", 32.0)
        slow = self._fact("rope.scaling.yarn_beta_slow", 1.0)
        start, end = (
            dim * math.log(trained / (beta * 2 * math.pi)) / (2 * math.log(self.freq_base)) for beta in (fast, slow)
        )
        return max(0, math.floor(start)), min(dim - 1, math.ceil(end))


def divergence(reference: Floats, candidate: Floats) -> float:
    """Mean KL(reference || candidate) over rows of logits, in nats."""
    total = 0.0
    for row in range(len(reference)):
        p, q = log_softmax(reference[row]), log_softmax(candidate[row])
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(reference)


def perplexity(logits: Floats, tokens: list[int]) -> float:
    """exp of the mean negative log-likelihood of tokens[1:] given logits[:-1]."""
    losses = [-log_softmax(row)[token] for row, token in zip(logits, tokens[1:], strict=False)]
    return float(np.exp(np.mean(losses)))


def log_softmax(logits: Floats) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    normal: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normal
