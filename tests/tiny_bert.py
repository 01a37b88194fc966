"""Tiny encoders with random weights in GGUF files, and their arithmetic in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf

Floats = NDArray[np.float32]
HIDDEN, FFN, HEADS, LAYERS, CONTEXT = 64, 96, 4, 3, 96
EPSILON = 1e-6
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁a", "▁cat", "s", "▁sat", "▁mat", *(f"▁w{i}" for i in range(54))]
POOLINGS = {"mean": 1, "cls": 2, "last": 3}
WINDOW = 16
BASES = (160000.0, 10000.0)


def random_encoder(architecture: str, seed: int = 3) -> dict[str, Floats]:
    """All tensors of an encoder by their GGUF names."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Floats:
        return random.standard_normal((rows, columns)).astype(np.float32) * np.float32(1.2 / math.sqrt(columns))

    def vector(size: int, around: float = 0.0) -> Floats:
        return (around + 0.2 * random.standard_normal(size)).astype(np.float32)

    has_bias = architecture == "bert"
    tensors: dict[str, Floats] = {"token_embd.weight": matrix(len(WORDS), HIDDEN) * 4}
    if architecture != "modern-bert":
        tensors["token_types.weight"] = matrix(2, HIDDEN) * 2
    if architecture == "bert":
        tensors["position_embd.weight"] = matrix(CONTEXT, HIDDEN) * 2

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = vector(HIDDEN, 1.0)
        if architecture != "modern-bert":
            tensors[f"{name}.bias"] = vector(HIDDEN)

    def linear(name: str, rows: int, columns: int) -> None:
        tensors[f"{name}.weight"] = matrix(rows, columns)
        if has_bias:
            tensors[f"{name}.bias"] = vector(rows)

    norm("token_embd_norm")
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        if architecture == "bert":
            for kind in "qkv":
                linear(f"{name}.attn_{kind}", HIDDEN, HIDDEN)
        else:
            linear(f"{name}.attn_qkv", 3 * HIDDEN, HIDDEN)
        linear(f"{name}.attn_output", HIDDEN, HIDDEN)
        linear(f"{name}.ffn_up", FFN * (2 if architecture == "modern-bert" else 1), HIDDEN)
        if architecture == "nomic-bert":
            linear(f"{name}.ffn_gate", FFN, HIDDEN)
        linear(f"{name}.ffn_down", HIDDEN, FFN)
        if architecture == "modern-bert":
            norm(f"{name}.ffn_norm")
            if layer:
                norm(f"{name}.attn_norm")
        else:
            norm(f"{name}.attn_output_norm")
            norm(f"{name}.layer_output_norm")
    if architecture == "modern-bert":
        norm("output_norm")
    return tensors


def write_tiny_bert(
    path: Path,
    architecture: str = "bert",
    tensors: Mapping[str, Floats] | None = None,
    *,
    pooling: str = "mean",
    extra: dict[str, Meta] | None = None,
) -> Path:
    """Writes the encoder as a GGUF file of floats and returns its path."""
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": CONTEXT,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": FFN,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.layer_norm_epsilon": EPSILON,
        f"{architecture}.attention.causal": False,
        f"{architecture}.pooling_type": POOLINGS[pooling],
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": np.array([3] * 4 + [1] * (len(WORDS) - 4), np.int32),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }
    if architecture != "bert":
        metadata[f"{architecture}.rope.freq_base"] = BASES[0]
    if architecture == "modern-bert":
        metadata[f"{architecture}.attention.sliding_window"] = WINDOW
        metadata[f"{architecture}.rope.freq_base_swa"] = BASES[1]
    tensors = random_encoder(architecture) if tensors is None else tensors
    listed = [Tensor(name, values.shape, "F32", values) for name, values in tensors.items()]
    return write_gguf(path, metadata | (extra or {}), listed)


def reference(architecture: str, tensors: Mapping[str, Floats], pooling: str, texts: Sequence[Sequence[int]]) -> Floats:
    """The texts' vectors, (len(texts), HIDDEN), computed one text at a time in float64."""
    return np.stack([_vector(architecture, tensors, pooling, text) for text in texts]).astype(np.float32)


def _vector(architecture: str, tensors: Mapping[str, Floats], pooling: str, ids: Sequence[int]) -> NDArray[Any]:
    w = {name: values.astype(np.float64) for name, values in tensors.items()}
    x = w["token_embd.weight"][list(ids)]
    if "position_embd.weight" in w:
        x = x + w["position_embd.weight"][: len(ids)]
    if "token_types.weight" in w:
        x = x + w["token_types.weight"][0]
    x = _norm(w, "token_embd_norm", x)
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        if architecture == "modern-bert":
            seen = _norm(w, f"{name}.attn_norm", x) if layer else x
            x = x + _attention(architecture, w, layer, seen)
            x = x + _network(architecture, w, name, _norm(w, f"{name}.ffn_norm", x))
        else:
            x = _norm(w, f"{name}.attn_output_norm", x + _attention(architecture, w, layer, x))
            x = _norm(w, f"{name}.layer_output_norm", x + _network(architecture, w, name, x))
    if architecture == "modern-bert":
        x = _norm(w, "output_norm", x)
    pooled: NDArray[Any] = {"mean": x.mean(0), "cls": x[0], "last": x[-1]}[pooling]
    return pooled


def _norm(w: Mapping[str, Any], name: str, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + EPSILON) * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)


def _linear(w: Mapping[str, Any], name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def _attention(architecture: str, w: Mapping[str, Any], layer: int, x: Any) -> Any:
    name, size = f"blk.{layer}", HIDDEN // HEADS
    if architecture == "bert":
        q, k, v = (_linear(w, f"{name}.attn_{kind}", x) for kind in "qkv")
    else:
        q, k, v = np.split(_linear(w, f"{name}.attn_qkv", x), 3, axis=-1)
    is_local = architecture == "modern-bert" and layer % 3 != 0
    far = np.abs(np.subtract.outer(np.arange(len(x)), np.arange(len(x)))) > WINDOW // 2
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        one, other = q[:, part], k[:, part]
        if architecture != "bert":
            one, other = (_turned(value, BASES[is_local]) for value in (one, other))
        scores = one @ other.T / math.sqrt(size)
        if is_local:
            scores = np.where(far, -np.inf, scores)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(shares / shares.sum(-1, keepdims=True) @ v[:, part])
    return _linear(w, f"{name}.attn_output", np.concatenate(heads, axis=-1))


def _turned(x: Any, base: float) -> Any:
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(len(x)), base ** -(np.arange(half) / half))
    left, right = x[:, :half], x[:, half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def _network(architecture: str, w: Mapping[str, Any], name: str, x: Any) -> Any:
    up = _linear(w, f"{name}.ffn_up", x)
    if architecture == "bert":
        inner = _gelu(up)
    elif architecture == "nomic-bert":
        gate = _linear(w, f"{name}.ffn_gate", x)
        inner = gate / (1 + np.exp(-gate)) * up
    else:
        gate, up = np.split(up, 2, axis=-1)
        inner = _gelu(gate) * up
    return _linear(w, f"{name}.ffn_down", inner)


def _gelu(x: Any) -> Any:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
