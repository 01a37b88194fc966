"""LoRA adapters: pairs of narrow matrices whose product is added to a checkpoint's matrices.

From GGUF as llama.cpp's convert_lora_to_gguf.py writes them, read by the rules of its src/llama-adapter.cpp; and from
safetensors as PEFT's save_pretrained does: adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hearth_export.adapter_names import Place, place_of
from hearth_export.errors import BadCheckpoint, UnsupportedModel, naming
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, Bytes, Floats, dequantize, float_rows
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.readers.safetensors import SafetensorsFile, Stored, open_safetensors
from hearth_export.readers.values import TensorInfo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_FACTOR_ELEMENTS = 1 << 24  # of A, which is held while its matrix is merged


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the two matrices of a pair."""

    name: str
    shape: tuple[int, int]
    read: Callable[[int, int], Floats]  # rows start..stop


@dataclass(frozen=True, slots=True)
class Pair:
    """scale * b a is added to some rows of a tensor: those of one expert, or all."""

    tensor: str  # its GGUF name
    a: Factor  # (rank, columns)
    b: Factor  # (rows, rank)
    scale: float
    expert: int | None = None
    in_halves: bool = False  # rows of q and k are in Hugging Face's order, whatever llama.cpp does


@dataclass(frozen=True, slots=True)
class Adapter:
    """An open adapter."""

    path: Path
    architecture: str  # general.architecture of its base; "" where it does not say
    pairs: list[Pair]
    vectors: dict[str, Floats]  # norms that take the place of the base's, by GGUF name


@contextmanager
def open_adapter(path: Path) -> Iterator[Adapter]:
    """The adapter at `path`: a GGUF file, or a directory of PEFT's.

    Raises BadCheckpoint for what cannot be read or contradicts itself, UnsupportedModel for what cannot be merged. Both
    name file, tensor or field.
    """
    with ExitStack() as stack:
        with naming(path):
            is_peft = path.is_dir()
            adapter = _from_peft(path, stack) if is_peft else _from_gguf(stack.enter_context(open_gguf(path)))
        yield adapter


def floats_of(raw: Bytes, type_name: str) -> Floats:
    """Rows of any block type as float32."""
    if type_name in FLOAT_TYPES:
        return float_rows(raw, type_name)
    return dequantize(BLOCK_TYPES[type_name].unpack(raw))


# -- GGUF --------------------------------------------------------------------------------------------------------------


def _from_gguf(gguf: GGUF) -> Adapter:
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        found = gguf.get(key, str, "missing")
        if found != wanted:
            raise UnsupportedModel(f"{key} is {found[:80]!r} where '{wanted}' is expected: this is no LoRA adapter")
    if "adapter.alora.invocation_tokens" in gguf.metadata:
        raise UnsupportedModel("the adapter is meant to be switched on by tokens, so it cannot be merged")
    alpha = gguf.get("adapter.lora.alpha", float, 0.0)
    pairs, vectors = [], {}
    for name, info in gguf.tensors.items():
        base, _, kind = name.rpartition(".lora_")
        if kind == "a" and base:
            pairs += _gguf_pairs(gguf, base, info, alpha)
        elif kind == "b" and base:
            _require(gguf.tensors, f"{base}.lora_a", name)
        elif name.endswith("_norm.weight") and len(info.shape) == 1:
            vectors[name] = floats_of(gguf.rows(name, 0, 1), info.type)[0]
        else:
            raise UnsupportedModel(f"tensor {name} is neither lora_a nor lora_b of a matrix")
    return Adapter(gguf.path, gguf.get("general.architecture", str, ""), pairs, vectors)


def _gguf_pairs(gguf: GGUF, base: str, a: TensorInfo, alpha: float) -> list[Pair]:
    """The pair of a matrix, or one for each expert."""
    b = _require(gguf.tensors, f"{base}.lora_b", a.name)
    if base == "token_embd.weight":
        raise _embedding(a.name)
    if len(a.shape) != len(b.shape) or not 2 <= len(a.shape) <= 3 or a.shape[:-2] != b.shape[:-2]:
        raise BadCheckpoint(f"tensors {a.name} {a.shape} and {b.name} {b.shape} do not go together")
    rank = a.shape[-2]
    scale = alpha / rank if alpha else 1.0
    experts = range(a.shape[0]) if len(a.shape) == 3 else [None]
    return [Pair(base, _gguf_factor(gguf, a, e), _gguf_factor(gguf, b, e), scale, e) for e in experts]


def _gguf_factor(gguf: GGUF, info: TensorInfo, expert: int | None) -> Factor:
    num_rows, num_columns = info.shape[-2:]
    first = (expert or 0) * num_rows

    def read(start: int, stop: int) -> Floats:
        return floats_of(gguf.rows(info.name, first + start, first + stop), info.type)

    return Factor(info.name, (num_rows, num_columns), read)


def _require(tensors: Mapping[str, TensorInfo], name: str, other: str) -> TensorInfo:
    info = tensors.get(name)
    if info is None:
        raise BadCheckpoint(f"tensor {name} is missing, the other half of {other}")
    return info


def _embedding(name: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"tensor {name} changes the embedding, which cannot be merged: train the adapter without embed_tokens"
    )


# -- safetensors -------------------------------------------------------------------------------------------------------


class _Config(msgspec.Struct):
    """What matters of adapter_config.json."""

    peft_type: str = ""
    lora_alpha: float = 8.0  # PEFT's default
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: Any = None
    bias: str = "none"
    lora_bias: bool = False

    def scale(self, module: str, rank: int) -> float:
        """PEFT's: the last matching pattern's alpha, or the common one, over the rank or its root."""
        matching = [value for key, value in self.alpha_pattern.items() if f".{module}".endswith(f".{key}")]
        alpha = matching[0] if matching else self.lora_alpha
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _from_peft(directory: Path, stack: ExitStack) -> Adapter:
    config = _config(directory)
    _refuse_config(config)
    file = stack.enter_context(_open(directory / WEIGHTS))
    halves: dict[str, dict[str, tuple[Place, Stored]]] = {}
    for name, tensor in file.tensors.items():
        place = place_of(name)
        halves.setdefault(place.module, {})[place.half] = place, tensor
    return Adapter(directory, "", [_peft_pair(found, config) for found in halves.values()], {})


@contextmanager
def _open(path: Path) -> Iterator[SafetensorsFile]:
    file = open_safetensors(path)
    try:
        yield file
    finally:
        file.close()


def _config(directory: Path) -> _Config:
    path = directory / CONFIG
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_CONFIG_BYTES), type=_Config)
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: {error}") from error


def _refuse_config(config: _Config) -> None:
    if config.peft_type.upper() != "LORA":
        raise UnsupportedModel(f"{CONFIG}: peft_type is {config.peft_type[:80]!r}; only LORA can be merged")
    for field, usual in (("use_dora", False), ("bias", "none"), ("lora_bias", False)):
        value = getattr(config, field)
        if value != usual:
            raise UnsupportedModel(f"{CONFIG}: {field} is {str(value)[:80]!r}, which cannot be merged")
    if config.modules_to_save:
        raise UnsupportedModel(
            f"{CONFIG}: modules_to_save is {str(config.modules_to_save)[:80]}: whole layers cannot be merged, only "
            "LoRA's pairs; merge the adapter with PEFT (merge_and_unload) and create the model from the result"
        )
    if not math.isfinite(config.lora_alpha) or not all(map(math.isfinite, config.alpha_pattern.values())):
        raise BadCheckpoint(f"{CONFIG}: lora_alpha is not finite")


def _peft_pair(found: dict[str, tuple[Place, Stored]], config: _Config) -> Pair:
    place, tensor = next(iter(found.values()))
    for half in ("A", "B"):
        if half not in found:
            raise BadCheckpoint(f"tensor {tensor.name} has no other half, lora_{half}")
    a, b = (_peft_factor(found[half][1]) for half in ("A", "B"))
    return Pair(place.tensor, a, b, config.scale(place.module, a.shape[0]), place.expert, in_halves=True)


def _peft_factor(tensor: Stored) -> Factor:
    if tensor.dtype not in FLOAT_TYPES or len(tensor.shape) != 2:
        raise UnsupportedModel(f"tensor {tensor.name} is {tensor.dtype} {tensor.shape}; a float matrix is expected")
    num_rows, num_columns = tensor.shape
    return Factor(tensor.name, (num_rows, num_columns), partial(_stored_rows, tensor))


def _stored_rows(tensor: Stored, start: int, stop: int) -> Floats:
    raw = tensor.data().reshape(tensor.shape[0], -1)[start:stop]
    return float_rows(np.ascontiguousarray(raw), tensor.dtype)
