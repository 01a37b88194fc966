"""What decoders' and encoders' metadata have in common: numbers within bounds, under one architecture's prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.readers.values import MetaArray
from hearth_export.spec import Pooling

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 27
# `llama_pooling_type` in llama.cpp's llama.h
POOLINGS = {0: None, 1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST}
HEAD_STEP = 16  # GroupQueryAttention with rotary refuses other heads


class Sizes(TypedDict):
    """The sizes of a decoder, as ModelSpec calls them."""

    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    tied_head: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """The keys `{prefix}.*` of a checkpoint. What is missing, of another type or absurd raises BadCheckpoint naming
    file, key and value."""

    checkpoint: Checkpoint
    prefix: str

    def has(self, key: str) -> bool:
        return f"{self.prefix}.{key}" in self.checkpoint.metadata

    def count(self, key: str, most: int, default: int | None = None, least: int = 1) -> int:
        """A whole number in least..most."""
        key = f"{self.prefix}.{key}"
        value = self.checkpoint.require(key, int) if default is None else self.checkpoint.get(key, int, default)
        if not least <= value <= most:
            raise BadCheckpoint(f"{self.checkpoint.path}: {key} is {value}, outside {least}..{most}")
        return value

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """A number in least..most."""
        key = f"{self.prefix}.{key}"
        value = self.checkpoint.require(key, float) if default is None else self.checkpoint.get(key, float, default)
        if not least <= value <= most:
            raise BadCheckpoint(f"{self.checkpoint.path}: {key} is {value}, outside {least:g}..{most:g}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return self.checkpoint.get(f"{self.prefix}.{key}", bool, default)

    def per_layer(self, key: str, num_layers: int) -> list[int] | None:
        """An array of a whole number or bool a layer; None where the key is absent or one value for all."""
        key = f"{self.prefix}.{key}"
        values = self.checkpoint.metadata.get(key)
        if not isinstance(values, MetaArray):
            return None
        if values.element == "string" or "float" in values.element or len(values) < num_layers:
            raise BadCheckpoint(
                f"{self.checkpoint.path}: {key} is an array of {len(values)} {values.element} "
                f"where a whole number for each of {num_layers} layers is expected"
            )
        return [int(value) for value in values.numpy()[:num_layers].tolist()]

    def require_usual(self, key: str, *usual: int) -> None:
        """UnsupportedModel where the key has another value than one of `usual`, the first of which is the default."""
        key = f"{self.prefix}.{key}"
        value = self.checkpoint.get(key, int, usual[0])
        if value not in usual:
            wanted = " or ".join(map(str, usual))
            raise UnsupportedModel(f"{self.checkpoint.path}: {key} is {value}; only {wanted} can be converted")

    def rms_epsilon(self) -> float:
        return self.number("attention.layer_norm_rms_epsilon", 0, 1)

    def layer_epsilon(self) -> float:
        return self.number("attention.layer_norm_epsilon", 0, 1)

    def pooling(self) -> Pooling | None:
        """How texts become vectors; None where the checkpoint does not say, or says that they do not."""
        key = "pooling_type"
        value = self.count(key, MAX_WIDTH, 0, least=0)
        if value > max(POOLINGS):
            raise UnsupportedModel(
                f"{self.checkpoint.path}: {self.prefix}.{key} is {value}; 0 to {max(POOLINGS)} are known"
            )
        return POOLINGS[value]

    def decoder_sizes(self) -> Sizes:
        """All sizes, with heads that the attention kernel can take."""
        hidden_size = self.count("embedding_length", MAX_WIDTH)
        num_heads = self.count("attention.head_count", MAX_WIDTH)
        num_kv_heads = self.count("attention.head_count_kv", MAX_WIDTH, num_heads)
        return Sizes(
            num_layers=self.count("block_count", MAX_LAYERS),
            hidden_size=hidden_size,
            ffn_size=self.count("feed_forward_length", MAX_WIDTH),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=self._head_dim(hidden_size, num_heads, num_kv_heads),
            vocab_size=self.checkpoint.tensor("token_embd.weight").shape[0],
            context_length=self.count("context_length", MAX_CONTEXT),
            tied_head="output.weight" not in self.checkpoint.tensors,
        )

    def _head_dim(self, hidden_size: int, num_heads: int, num_kv_heads: int) -> int:
        path, prefix = self.checkpoint.path, self.prefix
        if num_heads % num_kv_heads:
            raise BadCheckpoint(
                f"{path}: {prefix}.attention.head_count_kv {num_kv_heads} does not divide head_count {num_heads}"
            )
        if hidden_size % num_heads and not self.has("attention.key_length"):
            raise BadCheckpoint(f"{path}: {prefix}.attention.head_count {num_heads} does not divide {hidden_size}")
        head_dim = self.count("attention.key_length", MAX_WIDTH, hidden_size // num_heads)
        if head_dim % HEAD_STEP:
            raise UnsupportedModel(
                f"{path}: attention heads of {head_dim} values (a multiple of {HEAD_STEP} can be converted)"
            )
        self.require_usual("attention.value_length", head_dim)
        return head_dim
