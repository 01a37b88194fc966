"""Which block type each tensor of a quantized file gets.

A file type is more than a block type: Q4_K_M holds most matrices in Q4_K, and those that suffer most in Q6_K. The rules
are those of `llama_tensor_get_type_impl` and `tensor_allows_quantization` in llama.cpp's src/llama-quant.cpp, without
those for the architecture falcon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hearth_export.checkpoint import T
from hearth_export.errors import UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES
from hearth_export.readers.values import TensorInfo, Value
from hearth_export.source import FILE_TYPES

# file type -> the block type of the matrices that no rule singles out
DEFAULTS = {
    "F32": "F32", "F16": "F16", "BF16": "BF16",
    "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "Q8_0": "Q8_0",
    "Q2_K": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K",
}  # fmt: skip
NUMBERS = {name: number for number, name in FILE_TYPES.items()}  # general.file_type
# for rows that do not split into blocks of 256
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

# small matrices, or ones that errors go straight through
_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj|position_embd|^token_types|ssm_conv1d"
    r"|shortconv\.conv|attn_rel_b|time_mix_(first|w\d|v\d|a\d|g\d|decay_w\d|lerp_fused)\.weight|\.rel_pos|\.patch_"
)
_VALUES = re.compile(r"attn_(v|qkv|kv_b)\.weight")
EIGHT = 8  # experts of Mixtral: beside them attention takes so little that more bits for it cost nothing
_OUTPUT = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
_OUTPUT_OF_EIGHT = dict.fromkeys(("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"), "Q5_K")


@dataclass(frozen=True, slots=True)
class _Model:
    """What the rules ask of a model."""

    is_tied: bool  # the embedding is the head too
    num_experts: int
    num_layers: int
    queries_per_kv_head: int
    value_layers: tuple[int, ...]  # decoder layers that have a matrix of values, ascending


def file_type(name: str) -> str:
    """The file type that is meant, whatever the case. Raises UnsupportedModel, which lists those that there are."""
    known = name.upper()
    if known not in DEFAULTS:
        raise UnsupportedModel(f"unsupported quantization type {name} - supported types are {', '.join(DEFAULTS)}")
    return known


class Sizes(Protocol):
    """What the rules read of a checkpoint."""

    @property
    def metadata(self) -> Mapping[str, Value]: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def get(self, key: str, kind: type[T]) -> T | None: ...

    def require(self, key: str, kind: type[T]) -> T: ...


def plan_types(gguf: Sizes, target: str) -> dict[str, str]:
    """tensor -> block type; vectors, norms and what is no matrix of weights keep theirs."""
    model = _model(gguf)
    return {info.name: _type_of(info, target, model) for info in gguf.tensors.values()}


def _type_of(info: TensorInfo, target: str, model: _Model) -> str:
    if not _is_quantized(info):
        return info.type
    wanted = DEFAULTS[target]
    if wanted in FLOAT_TYPES:
        return wanted
    return _fitting(info.shape[-1], _by_rule(info.name, target, model) or wanted)


def is_kept(name: str) -> bool:
    """Whether a matrix of that name stays as it is in every file type."""
    return bool(_KEPT.search(name))


def _is_quantized(info: TensorInfo) -> bool:
    is_matrix = len(info.shape) > 1 and info.num_rows > 1 and info.name.endswith("weight")
    return is_matrix and info.type in FLOAT_TYPES and not is_kept(info.name)


def _fitting(num_columns: int, wanted: str) -> str:
    """The wanted type, or the next that rows of so many values split into."""
    for candidate in (wanted, FALLBACKS.get(wanted, wanted)):
        if num_columns % BLOCK_TYPES[candidate].block == 0:
            return candidate
    return "F16"


def _by_rule(name: str, target: str, model: _Model) -> str | None:
    """The type that a rule gives the tensor, before its shape is looked at."""
    if name == "output.weight" or (model.is_tied and name == "token_embd.weight"):
        return "Q8_0" if target == "Q8_0" else "Q6_K"
    if _VALUES.search(name):
        return _of_values(target, model.value_layers.index(_layer(name)), model)
    if "ffn_down" in name:
        return _of_down(target, _layer(name), model.num_layers)
    if "attn_k.weight" in name and model.num_experts == EIGHT:
        return "Q8_0"
    if "attn_output.weight" in name:
        return (_OUTPUT_OF_EIGHT if model.num_experts == EIGHT else _OUTPUT).get(target)
    return None


def _of_values(target: str, position: int, model: _Model) -> str | None:
    """For the matrix of values that is `position`th from the first."""
    if model.num_experts == EIGHT:
        return "Q8_0"
    wanted = None
    if target == "Q2_K":
        wanted = "Q4_K" if model.queries_per_kv_head >= 4 else "Q3_K"
    elif target == "Q3_K_M":
        wanted = "Q5_K" if position < 2 else "Q4_K"
    elif target == "Q3_K_L" or (target == "Q4_K_S" and position < 4):
        wanted = "Q5_K"
    elif target in ("Q4_K_M", "Q5_K_M") and _deserves_more(position, len(model.value_layers)):
        wanted = "Q6_K"
    # models of 70 billion weights have so few values that more bits for them cost nothing
    is_70b = model.num_layers == 80 and model.queries_per_kv_head > 1
    return "Q5_K" if is_70b and (wanted or DEFAULTS[target]) in ("Q3_K", "Q4_K") else wanted


def _of_down(target: str, layer: int, num_layers: int) -> str | None:
    if target == "Q2_K":
        return "Q3_K"
    if target == "Q3_K_M":
        return "Q5_K" if layer < num_layers // 16 else "Q4_K"
    if target == "Q3_K_L" or (target == "Q4_K_S" and layer < num_layers // 8):
        return "Q5_K"
    return "Q6_K" if target in ("Q4_K_M", "Q5_K_M") and _deserves_more(layer, num_layers) else None


def _deserves_more(position: int, count: int) -> bool:
    """The first and the last eighth, and every third between."""
    eighth = count // 8
    return position < eighth or position >= 7 * count // 8 or (position - eighth) % 3 == 2


def _layer(name: str) -> int:
    """The decoder layer of a tensor; 0 for one outside of them."""
    found = re.match(r"blk\.(\d{1,9})\.", name)
    return int(found[1]) if found else 0


def _model(gguf: Sizes) -> _Model:
    architecture = gguf.require("general.architecture", str)
    return _Model(
        is_tied="output.weight" not in gguf.tensors,
        num_experts=gguf.get(f"{architecture}.expert_count", int) or 0,
        num_layers=gguf.get(f"{architecture}.block_count", int) or 1 + max(map(_layer, gguf.tensors), default=0),
        queries_per_kv_head=_queries_per_kv_head(gguf, architecture),
        value_layers=_value_layers(gguf.tensors),
    )


def _value_layers(names: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({_layer(name) for name in names if _VALUES.search(name)}))


def _queries_per_kv_head(gguf: Sizes, architecture: str) -> int:
    """1 where the file does not say it with two numbers."""
    heads = gguf.metadata.get(f"{architecture}.attention.head_count")
    kv_heads = gguf.metadata.get(f"{architecture}.attention.head_count_kv", heads)
    if isinstance(heads, int) and isinstance(kv_heads, int) and 0 < kv_heads <= heads:
        return heads // kv_heads
    return 1
