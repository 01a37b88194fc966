"""A variant: one runnable ONNX build of a checkpoint, in a directory of its own.

    variants/<sha256 hex of the source>/source.json         what the checkpoint says of itself
    variants/<sha256 hex of the source>/<variant>/          model.onnx, model.q8_0.onnx, their common data file,
                                                            tokenizer.json, variant.json

Variants are a cache: they can be deleted at any time and rebuilt from the source blob. A directory
appears whole or not at all, by rename; variant.json is what makes it one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hearthd import __version__

SCHEMA = 1
ENCODER = "encoder"  # a kind of variant; all others are decoders
BUILD = 4  # counts what changed in the exporter's files within a version of hearth
EXPORTER = f"{__version__}+{BUILD}"
VARIANT_FILE = "variant.json"
SOURCE_FILE = "source.json"
PACKED = "packed"  # directory of what this device made of a variant's weights

# The graph's values. B sequences, S new tokens a sequence, R wanted rows of the flattened (B * S), L positions in
# the KV buffer, D head_dim, V vocabulary. Past and present are bound to the same buffer.
INPUT_IDS = "input_ids"  # (B, S) int64
SEQLENS_K = "seqlens_k"  # (B,) int32: past + S - 1
TOTAL_LENGTH = "total_sequence_length"  # (1,) int32: past + S
ROWS = "rows"  # (R,) int64
LOGITS = "logits"  # (R, V) float32
HIDDEN = "hidden"  # (R, hidden_size) float32: what the head multiplies

# An encoder's values. B texts, S tokens of the longest.
LENGTHS = "lengths"  # (B,) int32: tokens of each text; what follows them in input_ids is padding
EMBEDDINGS = "embeddings"  # (B, hidden_size) float32: pooled, not normalised

# How keys and values can be held, and the bytes of one element.
F32, Q8_0 = "f32", "q8_0"
_KV_ITEMSIZE = {F32: 4, "f16": 2, Q8_0: 1}
_KV_TYPES = {"float32": F32, "float16": "f16", "int8": Q8_0}


def past_name(layer: int, kind: str) -> str:
    """The input of a decoder layer's past keys or values, (B, num_kv_heads, L, D); `kind` is "key" or "value"."""
    return f"past.{layer}.{kind}"


def present_name(layer: int, kind: str) -> str:
    """The output of a decoder layer's keys or values, shaped and bound as the past."""
    return f"present.{layer}.{kind}"


def cos_name(rope: int) -> str:
    """The input of a rope's cosines, (num_ctx, rotary_dim / 2) float32."""
    return f"cos.{rope}"


def sin_name(rope: int) -> str:
    """The input of a rope's sines, shaped as the cosines."""
    return f"sin.{rope}"


def scale_name(layer: int, kind: str) -> str:
    """The input of what one step of int8 keys or values is worth, (1, num_kv_heads, 1, D) float32."""
    return f"past.{layer}.{kind}.scale"


class RopeInfo(msgspec.Struct, frozen=True):
    """One rotary embedding, scaling applied: angle = position * inv_freq."""

    inv_freq: list[float]  # (rotary_dim / 2,)
    attention_scale: float = 1.0  # multiplies cos and sin
    long_inv_freq: list[float] = []  # in a window of more than `short_context` tokens, where there are any
    long_attention_scale: float = 1.0
    short_context: int = 0


class State(msgspec.Struct, frozen=True):
    """Keys or values of one layer in a graph that was not made here."""

    past: str  # an input
    present: str  # the output that is the next step's past
    shape: list[int]  # of one sequence, all axes but the first; -1 where the positions are counted
    dtype: str = "float32"


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a graph that was not made here."""

    inputs: dict[str, str]  # the graph's name -> what belongs there: one of IDS, MASK, POSITIONS ..
    output: str  # a decoder's logits (B, S, V), (B, 1, V) or (B, V); an encoder's states (B, S, H) or vectors (B, H)
    states: list[State] = []  # keys and values, layer by layer
    in_place: bool = False  # pasts and presents may be one buffer, (B, num_kv_heads, L, D)
    is_batched: bool = False  # in place, sequences of different lengths may share a step
    pad_id: int = 0  # what fills a row of input_ids behind its text


# What a bound graph's inputs are given. B sequences, S new tokens a sequence, P positions in their pasts.
IDS = "ids"  # (B, S): tokens
MASK = "mask"  # (B, P + S): 1 for tokens, 0 for padding
POSITIONS = "positions"  # (B, S)
TYPES = "types"  # (B, S): 0
USE_CACHE = "use_cache"  # (1,) bool: whether P > 0
NUM_LOGITS = "num_logits"  # scalar: 1, the last tokens whose logits are wanted


class VariantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """variant.json: all that a runner must know before it opens the graph."""

    schema: int = SCHEMA
    name: str  # "cpu-int4"
    kind: str = "decoder"  # or ENCODER, which has no KV cache and no ropes among its inputs
    provider: str = "cpu"  # the provider class that runs it
    goal: str = ""  # one of goals.GOALS; "": a graph that was not made here, or that has no choice
    exporter: str  # EXPORTER of the one that made it; another one rebuilds
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
    kv_graphs: dict[str, str] = {}  # other ways to hold keys and values -> their graph: "q8_0" -> "model.q8_0.onnx"
    ropes: list[RopeInfo]  # each has a pair of inputs: cos_name, sin_name
    layer_ropes: list[int] = []  # which of `ropes` each layer uses, -1 for none; []: the first everywhere
    has_hidden: bool = False  # a decoder's graph gives HIDDEN
    window: int = 0  # tokens that an encoder's local layers see at once; 0: none are local
    pooling: str = ""  # "mean", "cls", "last": how the checkpoint says that texts become vectors; "": it says nothing
    binding: Binding | None = None  # of a graph that was not made here; None: its values have the names above
    bos_id: int | None = None
    eos_ids: list[int] = []
    add_bos: bool = False
    add_eos: bool = False
    parameter_count: int = 0
    weight_bytes: int = 0

    def serves(self, goal: str) -> bool:
        """Whether a conversion for `goal` would give the same."""
        return self.goal in ("", goal)

    @property
    def kv_type(self) -> str:
        """How `graph` holds keys and values. KeyError for a kv_dtype that nobody knows."""
        return _KV_TYPES[self.kv_dtype]

    def served_kv_type(self, kv_type: str) -> str:
        """How keys and values are held where `kv_type` is asked for ("": no wish): so, or as `graph` does."""
        return kv_type if self.kv_graphs.get(kv_type) in self.files else self.kv_type

    def kv_bytes(self, kv_type: str = "") -> int:
        """Bytes of keys and values that one token occupies in all layers, held as `kv_type` where that is served."""
        itemsize = _KV_ITEMSIZE[self.served_kv_type(kv_type)]
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * itemsize

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token occupies in all layers, held as `graph` does."""
        return self.kv_bytes()


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
