"""Checkpoints of an architecture that only tests know: any ModelSpec, with random weights.

The spec travels in the file's metadata; this module is the architecture's row in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest

from hearth_export.checkpoint import Checkpoint
from hearth_export.pipeline import GRAPH_FILE, INT8_KV_GRAPH_FILE
from hearth_export.precision import Goal
from hearth_export.spec import ARCHITECTURES, Experts, ModelSpec, Norm, QKNorm, Rope
from hearthd.engine.kvform import KVForm
from hearthd.store import variant
from tests.hearth_export.converted import converted, decode_logits, prefill_logits
from tests.hearth_export.float_decoder import FloatDecoder
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.random_blocks import random_weights
from tests.tiny import MERGES, tokens

NAME = "flagged"
TOKENS = [40, 7, 101, 77, 250, 64, 64, 9, 130, 33, 81, 5, 199, 260, 17, 90, 111, 52, 3, 240, 66, 31]
MAX_FLOAT_ERROR = 1e-5
MAX_ERROR = 0.05  # int8 activations cost 0.01 to 0.03 in these nets; a wrong order of rows or columns costs 1


def turning(width: int, base: float = 10000.0, **changes: Any) -> Rope:
    """A rope over `width` values of a head."""
    return Rope(tuple((base ** -(np.arange(0, width, 2) / width)).tolist()), **changes)


PLAIN = ModelSpec(
    architecture=NAME,
    num_layers=2,
    hidden_size=64,
    ffn_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=len(tokens()),
    context_length=256,
    norm_epsilon=1e-5,
    tied_head=True,
    ropes=(turning(32),),
)


def flagged(**changes: Any) -> ModelSpec:
    """The plain spec with changes."""
    return replace(PLAIN, **changes)


def read_spec(gguf: Checkpoint) -> ModelSpec:
    """The spec in the file."""
    return msgspec.json.decode(gguf.require(f"{NAME}.spec", str), type=ModelSpec)


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """While this fixture is used, the exporter knows the architecture."""
    monkeypatch.setitem(ARCHITECTURES, NAME, __name__)


def write_flagged(
    path: Path,
    spec: ModelSpec,
    *,
    matrix_type: str = "F32",
    types: Mapping[str, str] = MappingProxyType({}),
    biases: bool = False,
    fused: bool = False,
    changed: Mapping[str, Tensor | None] = MappingProxyType({}),
) -> Path:
    """Writes a checkpoint for a spec; `fused` puts q, k and v in one tensor, and gate and up.

    `types` are block types of some matrices ("attn_v"), `changed` tensors that are others, or missing (None).
    """
    tensors = {tensor.name: tensor for tensor in _tensors(spec, matrix_type, types, biases, fused)}
    metadata: dict[str, Meta] = {
        "general.architecture": NAME,
        f"{NAME}.spec": msgspec.json.encode(spec).decode(),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens(),
        "tokenizer.ggml.token_type": np.array([3] * 3 + [1] * (len(tokens()) - 3), np.int32),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    kept = {**tensors, **changed}
    return write_gguf(path, metadata, [tensor for tensor in kept.values() if tensor])


def form_of(spec: ModelSpec, kv_type: str) -> KVForm:
    """Keys and values as "f32", or as "q8_0" with steps that fit these nets."""
    if kv_type == "f32":
        return KVForm("f32", GRAPH_FILE, "float32")
    step = np.full((1, spec.num_kv_heads, 1, spec.head_dim), 8 / 127, np.float32)
    places = [(layer, kind) for layer in range(spec.num_layers) for kind in ("key", "value")]
    scales = {variant.scale_name(layer, kind): step for layer, kind in places}
    return KVForm(kv_type, INT8_KV_GRAPH_FILE, "int8", scales)


def assert_equal_to_float_arithmetic(
    source: Path, root: Path, spec: ModelSpec, goal: Goal = Goal.FLOAT, most: float | None = None
) -> Path:
    """The variant computes what the spec says, token by token and as one prompt; its directory."""
    most = most or (MAX_FLOAT_ERROR if goal is Goal.FLOAT else MAX_ERROR)
    directory = converted(source, root, goal)
    want = FloatDecoder(spec, source).logits(TOKENS)
    assert want.std(-1).min() > 0.05, "logits this flat prove nothing"
    for got in (decode_logits(directory, TOKENS), prefill_logits(directory, TOKENS)):
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < most
        per_row = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
        assert per_row.max() < 3 * most
    return directory


def assert_converts(root: Path, spec: ModelSpec, *, quantized: str = "Q8_0", **how: Any) -> None:
    """The float variant and the quantized one compute what the spec says."""
    floats = write_flagged(root / "floats.gguf", spec, **how)
    assert_equal_to_float_arithmetic(floats, root / "float-variants", spec)
    codes = write_flagged(root / "codes.gguf", spec, matrix_type=quantized, **how)
    assert_equal_to_float_arithmetic(codes, root / "variants", spec, Goal.BYTES)


def _tensors(
    spec: ModelSpec, matrix_type: str, types: Mapping[str, str], biases: bool, fused: bool
) -> Iterator[Tensor]:
    generator = np.random.default_rng(7)

    def matrix(name: str, *shape: int, block_type: str = "") -> Iterator[Tensor]:
        block_type = block_type or types.get(name.rpartition(".")[2], matrix_type)
        rows = int(np.prod(shape[:-1]))
        weights = random_weights(block_type, rows, shape[-1], generator)
        yield Tensor(f"{name}.weight", shape, block_type, weights.reshape(*shape[:-1], -1))
        if biases:
            yield vector(f"{name}.bias", *shape[:-1])

    def vector(name: str, *shape: int) -> Tensor:
        return Tensor(name, shape, "F32", generator.standard_normal(shape, np.float32))

    def norm(name: str, size: int = spec.hidden_size) -> Iterator[Tensor]:
        yield Tensor(f"{name}.weight", (size,), "F32", 0.5 + generator.random(size, np.float32))
        if spec.norm is Norm.LAYER and biases:
            yield vector(f"{name}.bias", size)

    def layer_norms(prefix: str) -> Iterator[Tensor]:
        if spec.pre_norms:
            yield from norm(f"{prefix}.attn_norm")
            yield from norm(f"{prefix}.{spec.ffn_norm}")
        if spec.post_norms:
            yield from norm(f"{prefix}.post_attention_norm")
            yield from norm(f"{prefix}.post_ffw_norm")

    def attention(prefix: str) -> Iterator[Tensor]:
        sizes = {"q": spec.attention_size, "k": spec.kv_size, "v": spec.kv_size}
        if fused:
            yield from matrix(f"{prefix}.attn_qkv", sum(sizes.values()), spec.hidden_size)
        for kind, size in sizes.items() if not fused else ():
            yield from matrix(f"{prefix}.attn_{kind}", size, spec.hidden_size)
        yield from matrix(f"{prefix}.attn_output", spec.hidden_size, spec.attention_size)
        for kind in "qk" if spec.qk_norm is not QKNorm.NONE else "":
            size = spec.head_dim if spec.qk_norm is QKNorm.HEAD else sizes[kind]
            yield Tensor(f"{prefix}.attn_{kind}_norm.weight", (size,), "F32", 0.5 + generator.random(size, np.float32))
        if spec.sinks:
            yield vector(f"{prefix}.attn_sinks.weight", spec.num_heads)

    def feed_forward(prefix: str) -> Iterator[Tensor]:
        both = spec.gated and fused
        if spec.gated and not fused:
            yield from matrix(f"{prefix}.ffn_gate", spec.ffn_size, spec.hidden_size)
        yield from matrix(f"{prefix}.ffn_up", (2 if both else 1) * spec.ffn_size, spec.hidden_size)
        yield from matrix(f"{prefix}.ffn_down", spec.hidden_size, spec.ffn_size)

    def mixture(prefix: str, experts: Experts) -> Iterator[Tensor]:
        yield from matrix(f"{prefix}.ffn_gate_inp", experts.num, spec.hidden_size, block_type="F32")
        for kind in ("gate", "up"):
            yield from matrix(f"{prefix}.ffn_{kind}_exps", experts.num, experts.ffn_size, spec.hidden_size)
        yield from matrix(f"{prefix}.ffn_down_exps", experts.num, spec.hidden_size, experts.ffn_size)

    embedding = generator.standard_normal((spec.vocab_size, spec.hidden_size), np.float32)
    yield Tensor("token_embd.weight", embedding.shape, "F32" if matrix_type == "F32" else "Q8_0", embedding)
    yield from norm("output_norm")
    if not spec.tied_head:
        yield from matrix("output", spec.vocab_size, spec.hidden_size)
    for layer in range(spec.num_layers):
        prefix = f"blk.{layer}"
        yield from layer_norms(prefix)
        yield from attention(prefix)
        if spec.experts and layer not in spec.dense_layers:
            yield from mixture(prefix, spec.experts)
        else:
            yield from feed_forward(prefix)
