"""A variant: one runnable ONNX build of a checkpoint, in a directory of its own.

    variants/<sha256 hex of the source>/source.json         what the checkpoint says of itself
    variants/<sha256 hex of the source>/<variant>/          model.onnx, data, tokenizer.json, variant.json

Variants are a cache: they can be deleted at any time and rebuilt from the source blob. A directory
appears whole or not at all, by rename; variant.json is what makes it one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

SCHEMA = 1
VARIANT_FILE = "variant.json"
SOURCE_FILE = "source.json"

# The graph's values. B sequences, S new tokens a sequence, R wanted rows of the flattened (B * S), L positions in
# the KV buffer, D head_dim, V vocabulary. Past and present are bound to the same buffer.
INPUT_IDS = "input_ids"  # (B, S) int64
SEQLENS_K = "seqlens_k"  # (B,) int32: past + S - 1
TOTAL_LENGTH = "total_sequence_length"  # (1,) int32: past + S
ROWS = "rows"  # (R,) int64
COS, SIN = "cos", "sin"  # (num_ctx, D / 2) float32
LOGITS = "logits"  # (R, V) float32


def past_name(layer: int, kind: str) -> str:
    """The input of a decoder layer's past keys or values, (B, num_kv_heads, L, D); `kind` is "key" or "value"."""
    return f"past.{layer}.{kind}"


def present_name(layer: int, kind: str) -> str:
    """The output of a decoder layer's keys or values, shaped and bound as the past."""
    return f"present.{layer}.{kind}"


class VariantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """variant.json: all that a runner must know before it opens the graph."""

    schema: int = SCHEMA
    name: str  # "cpu-int4"
    provider: str = "cpu"  # the provider class that runs it
    exporter: str  # version of the exporter; another version rebuilds
    source: str  # "sha256:<hex>" of the checkpoint
    architecture: str
    graph: str = "model.onnx"
    tokenizer: str = "tokenizer.json"
    files: dict[str, int]  # name -> bytes, every file but variant.json
    holders: dict[str, str]  # block type -> how it is held: "Q4_1" -> "augap"
    context_length: int
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    kv_dtype: str = "float32"
    rope_inv_freq: list[float]  # (rotary_dim / 2,), scaling applied
    rope_attention_scale: float = 1.0  # multiplies cos and sin
    bos_id: int | None = None
    eos_ids: list[int] = []
    add_bos: bool = False
    add_eos: bool = False
    parameter_count: int = 0
    weight_bytes: int = 0

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token occupies in all layers."""
        itemsize = {"float32": 4, "float16": 2, "int8": 1}[self.kv_dtype]
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * itemsize


class SourceTensor(msgspec.Struct, frozen=True):
    """One tensor of the checkpoint, as /api/show lists it."""

    name: str
    type: str  # "Q4_1"
    shape: list[int]  # in the checkpoint's own order


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """source.json: what the checkpoint says of itself; arrays longer than 1024 are null."""

    schema: int = SCHEMA
    format: str = "gguf"
    architecture: str
    file_type: str  # "Q4_1"
    parameter_count: int
    context_length: int = 0
    embedding_length: int = 0
    chat_template: str | None = None  # Jinja
    bos_token: str = ""  # texts for the chat template; "" where the checkpoint names none
    eos_token: str = ""
    metadata: dict[str, Any]
    tensors: list[SourceTensor]


_variant_decoder = msgspec.json.Decoder(VariantInfo)
_source_decoder = msgspec.json.Decoder(SourceInfo)


def read_variant(directory: Path) -> VariantInfo | None:
    """The variant in `directory`, or None where it is absent, damaged or of another schema."""
    try:
        info = _variant_decoder.decode((directory / VARIANT_FILE).read_bytes())
        complete = all((directory / name).stat().st_size == size for name, size in info.files.items())
    except (OSError, msgspec.DecodeError):
        return None
    return info if complete and info.schema == SCHEMA else None


def read_source(path: Path) -> SourceInfo | None:
    """The SourceInfo at `path`, or None where it is absent, damaged or of another schema."""
    try:
        info = _source_decoder.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return info if info.schema == SCHEMA else None
