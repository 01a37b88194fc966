"""llama: Llama 1 to 3.3, SmolLM2, TinyLlama, Mistral and others that llama.cpp files under this name."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export import rope
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import ModelSpec
from hearth_export.translation import Config, Translation, renamed

PREFIX = "llama"
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 27
HEAD_STEP = 16  # GroupQueryAttention with rotary refuses other heads


def read_spec(gguf: Checkpoint) -> ModelSpec:
    """The ModelSpec of a llama checkpoint, with its tensors' shapes checked against it."""
    hidden_size = _count(gguf, "embedding_length", MAX_WIDTH)
    num_heads = _count(gguf, "attention.head_count", MAX_WIDTH)
    num_kv_heads = _count(gguf, "attention.head_count_kv", MAX_WIDTH, num_heads)
    head_dim = _head_dim(gguf, hidden_size, num_heads)
    _refuse_variations(gguf, num_heads, num_kv_heads, head_dim)
    context_length = _count(gguf, "context_length", MAX_CONTEXT)
    return ModelSpec(
        architecture=PREFIX,
        num_layers=_count(gguf, "block_count", MAX_LAYERS),
        hidden_size=hidden_size,
        ffn_size=_count(gguf, "feed_forward_length", MAX_WIDTH),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=gguf.tensor("token_embd.weight").shape[0],
        context_length=context_length,
        norm_epsilon=_epsilon(gguf),
        ropes=(rope.read_rope(gguf, PREFIX, head_dim, rows_interleaved=True),),
        tied_head="output.weight" not in gguf.tensors,
        read_tensors=frozenset({rope.FACTORS}),
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Llama checkpoint of Hugging Face in GGUF's words."""
    num_layers = config["num_hidden_layers"]
    return Translation(PREFIX, {f"{PREFIX}.block_count": num_layers}, renamed(num_layers, names))


def _count(gguf: Checkpoint, key: str, most: int, default: int | None = None) -> int:
    key = f"{PREFIX}.{key}"
    value = gguf.require(key, int) if default is None else gguf.get(key, int, default)
    if not 1 <= value <= most:
        raise BadCheckpoint(f"{gguf.path}: {key} is {value}, outside 1..{most}")
    return value


def _epsilon(gguf: Checkpoint) -> float:
    key = f"{PREFIX}.attention.layer_norm_rms_epsilon"
    value = gguf.require(key, float)
    if not 0 <= value <= 1:
        raise BadCheckpoint(f"{gguf.path}: {key} is {value}, outside 0..1")
    return value


def _head_dim(gguf: Checkpoint, hidden_size: int, num_heads: int) -> int:
    if hidden_size % num_heads and f"{PREFIX}.attention.key_length" not in gguf.metadata:
        raise BadCheckpoint(f"{gguf.path}: {PREFIX}.attention.head_count {num_heads} does not divide {hidden_size}")
    return _count(gguf, "attention.key_length", MAX_WIDTH, hidden_size // num_heads)


def _refuse_variations(gguf: Checkpoint, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    if num_heads % num_kv_heads:
        raise BadCheckpoint(
            f"{gguf.path}: {PREFIX}.attention.head_count_kv {num_kv_heads} does not divide head_count {num_heads}"
        )
    if head_dim % HEAD_STEP:
        raise UnsupportedModel(
            f"{gguf.path}: attention heads of {head_dim} values (a multiple of {HEAD_STEP} can be converted)"
        )
    for key, usual in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim), ("expert_count", 0)):
        value = gguf.get(f"{PREFIX}.{key}", int, usual)
        if value != usual:
            raise UnsupportedModel(f"{gguf.path}: {PREFIX}.{key} is {value}; only {usual} can be converted")
