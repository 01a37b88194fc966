"""A plain float32 llama in numpy: the reference that converted models are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

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

    def logits(self, tokens: list[int]) -> Floats:
        """(len(tokens), vocabulary): one evaluation of the whole sequence."""
        x = self._weight("token_embd.weight")[tokens]
        for layer in range(self.num_layers):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm.weight"))
            x = x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm.weight"))
        head = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        return self._norm(x, "output_norm.weight") @ self._weight(head).T

    def _fact(self, key: str) -> Any:
        return self._fields[f"llama.{key}"].contents()

    def _weight(self, name: str) -> Floats:
        tensor = self._tensors[name]
        weights: Floats = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return weights

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
        inv_freq = float(self.freq_base) ** -(np.arange(0, dim, 2) / dim)
        if "rope_freqs.weight" in self._tensors:
            inv_freq = inv_freq / self._weight("rope_freqs.weight").reshape(-1)
        angles = np.outer(np.arange(length), inv_freq)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def divergence(reference: Floats, candidate: Floats) -> float:
    """Mean KL(reference || candidate) over rows of logits, in nats."""
    p, q = log_softmax(reference), log_softmax(candidate)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def perplexity(logits: Floats, tokens: list[int]) -> float:
    """exp of the mean negative log-likelihood of tokens[1:] given logits[:-1]."""
    rows = log_softmax(logits[:-1])
    return float(np.exp(-rows[np.arange(len(tokens) - 1), tokens[1:]].mean()))


def log_softmax(logits: Floats) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    normal: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normal
