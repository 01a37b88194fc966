"""A Hugging Face directory of which only the small files are understood: config.json in GGUF's words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import Bytes
from hearth_export.readers.values import MetaArray, TensorInfo, Value
from hearth_export.readers.words import Words
from hearth_export.sentences import sentence_metadata

T = TypeVar("T", str, int, float, bool, MetaArray)

CONFIG = "config.json"
MAX_FILE_BYTES = 64 << 20
DEFAULT_CONTEXT = 2048  # tokens, where positions are not bounded by a table
MEAN = 1  # `llama_pooling_type` in llama.cpp's llama.h

# what one repository or another calls a number of config.json
SYNONYMS = {
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
                       "seq_length"),
    "embedding_length": ("hidden_size", "n_embd", "d_model", "dim"),
    "block_count": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "attention.key_length": ("head_dim",),
    "vocab_size": ("vocab_size",),
}  # fmt: skip
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "xmod", "data2vec-text")


class Repository(Words):
    """What is common to those whose weights the builder does not read."""

    format = ""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    def close(self) -> None:
        """Nothing is open between calls."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType({})

    @property
    @abstractmethod
    def is_encoder(self) -> bool:
        """Whether it makes vectors, not text."""

    @cached_property
    def metadata(self) -> MappingProxyType[str, Value]:
        """What config.json and sentence-transformers' files say, in GGUF's words."""
        architecture = str(self.config.get("model_type") or "unknown")[:64]
        found: dict[str, Value] = {"general.architecture": architecture}
        for key, names in SYNONYMS.items():
            if (number := self._number(names)) is not None:
                found[f"{architecture}.{key}"] = number
        length = found.setdefault(f"{architecture}.context_length", DEFAULT_CONTEXT)
        if architecture in POSITIONS_AFTER_PADDING and isinstance(length, int):
            found[f"{architecture}.context_length"] = max(1, length - 1 - self.pad_id)
        if self.is_encoder:  # most graphs come without the files that name another way
            found |= {f"{architecture}.pooling_type": MEAN} | sentence_metadata(architecture, self.read_file)
        return MappingProxyType(found)

    @property
    def pad_id(self) -> int:
        value = self.config.get("pad_token_id")
        return value if type(value) is int and 0 <= value < 1 << 31 else 0

    def fact(self, key: str, default: int = 0) -> int:
        """A number of the model, by GGUF's name without the architecture."""
        return self.get(f"{self.metadata['general.architecture']}.{key}", int, default)

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Raises UnsupportedModel: the builder does not read them."""
        raise UnsupportedModel(f"{self.path}: tensor {name} is not read: its model is not built from tensors here")

    def release(self, name: str) -> None:
        """Nothing is held."""

    def release_all(self) -> None:
        """Nothing is held."""

    def read_file(self, name: str) -> bytes | None:
        """A file of the directory; config.json from what is known instead, where there is none."""
        raw = read_small(self.path / name.lstrip("/"))
        return msgspec.json.encode(self.config) if raw is None and name == CONFIG else raw

    def _number(self, names: tuple[str, ...]) -> int | None:
        nested = self.config.get("text_config")
        for values in (self.config, nested if isinstance(nested, dict) else {}):
            for name in names:
                value = values.get(name)
                if value is not None:
                    if type(value) is not int or not 0 < value < 1 << 31:
                        raise BadCheckpoint(f"{self.path}: {CONFIG}: {name} is {str(value)[:64]}, no whole number")
                    return value
        return None


def refuse_foreign(path: Path, config: dict[str, Any]) -> None:
    """UnsupportedModel names what makes a model more than one of text."""
    for sign in ("vision_config", "audio_config"):
        if sign in config:
            raise UnsupportedModel(f"{path}: {CONFIG} has {sign}: only models of text alone can be taken this way")
    if config.get("is_encoder_decoder") is True:
        raise UnsupportedModel(
            f"{path}: {CONFIG}: model_type '{str(config.get('model_type'))[:64]}' is an encoder with a decoder, "
            "which cannot be served"
        )


def read_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON object; {} where there is no such file. BadCheckpoint."""
    raw = read_small(path / name)
    if raw is None:
        return {}
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path / name}: is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path / name}: is no JSON object")
    return value


def read_small(path: Path) -> bytes | None:
    """The content of a file, None where there is none. BadCheckpoint where it cannot be read or is too large."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise BadCheckpoint(f"{path}: is no file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadCheckpoint(f"{path}: is larger than the {MAX_FILE_BYTES} bytes that such a file can have")
    return data
