"""A Hugging Face directory as a checkpoint in GGUF's words: config.json and safetensors, translated.

Rows are what the files store, or are put together from them as the translation says; nothing is held.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import numpy as np

from hearth_export.errors import BadCheckpoint, UnsupportedModel, naming
from hearth_export.ggml import BLOCK_TYPES, Bytes
from hearth_export.readers.pieces import Piece, pieces_of
from hearth_export.readers.safetensors import SafetensorsFile, Stored, open_shards
from hearth_export.readers.values import MetaArray, TensorInfo, Value
from hearth_export.readers.words import Words
from hearth_export.sentences import sentence_metadata
from hearth_export.translation import OTHERWISE, Translation, translate

T = TypeVar("T", str, int, float, bool, MetaArray)

CONFIG = "config.json"
MAX_CONFIG_BYTES = 16 << 20
MAX_NAME = 256
MAX_FILE_BYTES = 64 << 20  # of tokenizer.json, the largest of them
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "MXFP4": 38}  # `llama_ftype` in llama.cpp's llama.h


class HuggingFace(Words):
    """An open directory. Arrays that `rows` returned may keep mappings alive after `close`."""

    format = "safetensors"

    def __init__(
        self, path: Path, config: dict[str, Any], translation: Translation, files: list[SafetensorsFile]
    ) -> None:
        self.path = path
        self.config = config
        self.translation = translation
        self._files = files
        stored = {name: tensor for file in files for name, tensor in file.tensors.items()}
        self._pieces = {name: pieces_of(name, sources, stored) for name, sources in translation.tensors.items()}
        self._computed = {name: np.array(values, "<f4") for name, values in translation.vectors.items()}
        self._tensors = MappingProxyType({info.name: info for info in self._infos()})
        self._told = MappingProxyType(self._metadata())
        self._refuse_unused(stored)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, Value]:
        return self._told

    def close(self) -> None:
        for file in self._files:
            file.close()

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows start..stop, (stop - start, row_bytes) uint8: a read-only view where they lie in the file like that."""
        info = self.tensor(name)
        if not 0 <= start <= stop <= info.num_rows:
            raise IndexError(f"rows {start}..{stop} of tensor {name}, which has {info.num_rows}")
        if name in self._computed:
            return self._computed[name].view(np.uint8).reshape(1, -1)[start:stop]
        pieces = self._pieces[name]
        if len(info.shape) == 1:  # a row may be made of several pieces
            return np.concatenate([piece.read(0, piece.num_rows) for piece in pieces], axis=None)[None][start:stop]
        return _joined(pieces, start, stop, info.row_bytes)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Gives the pages of the tensor back to the kernel. A later read maps them again: only speed is lost."""
        for piece in self._pieces.get(name, ()):
            piece.release()

    def release_all(self) -> None:
        for file in self._files:
            file.release_all()

    def read_file(self, name: str) -> bytes | None:
        """A file of the directory ("tokenizer.json"); None where there is none."""
        return _read(self.path / name.lstrip("/"), MAX_FILE_BYTES)

    def _infos(self) -> list[TensorInfo]:
        infos = [
            _info(name, pieces, name in self.translation.stacked) for name, pieces in self._pieces.items() if pieces
        ]
        return infos + [
            TensorInfo(name, values.shape, "F32", BLOCK_TYPES["F32"].type_id, 0, values.nbytes)
            for name, values in self._computed.items()
        ]

    def _metadata(self) -> dict[str, Value]:
        metadata: dict[str, Value] = {
            "general.architecture": self.translation.architecture,
            "general.file_type": _file_type(self.tensors.values()),
        }
        name = str(self.config.get("_name_or_path") or self.path.name).rpartition("/")[2]
        if not name.startswith("."):  # of a temporary directory
            metadata["general.name"] = name[:MAX_NAME]
        for key, value in self.translation.metadata.items():
            metadata[key] = _plain(key, value)
        return metadata | sentence_metadata(self.translation.architecture, self.read_file)

    def _refuse_unused(self, stored: dict[str, Stored]) -> None:
        """A stored tensor that the translation leaves out would change what the model computes."""
        sources = [source for tensor in self.translation.tensors.values() for source in tensor]
        used = {source.name for source in sources} | {source.scales for source in sources}
        for name in stored:
            if name not in used and name not in self.translation.ignored and not name.endswith(IGNORED_ENDINGS):
                raise UnsupportedModel(
                    f"tensor {name[:MAX_NAME]} has no place in a model of model_type "
                    f"'{self.config.get('model_type')}' as the builder knows it; {OTHERWISE}"
                )


# buffers that old versions of transformers saved; computed again by everybody
IGNORED_ENDINGS = (".rotary_emb.inv_freq", ".attn.masked_bias", ".embeddings.position_ids")


def open_huggingface(path: Path) -> HuggingFace:
    """Reads config.json and maps the safetensors files of a directory.

    Raises BadCheckpoint for what cannot be read, is truncated or contradicts itself, UnsupportedModel for a model type,
    a dtype or a tensor that the builder does not know. Both name the directory or the file in it.
    """
    config = _config(path)
    files = open_shards(path)
    try:
        with naming(path):
            translation = translate(config, {name for file in files for name in file.tensors})
            return HuggingFace(path, config, translation, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _config(path: Path) -> dict[str, Any]:
    raw = _read(path / CONFIG, MAX_CONFIG_BYTES)
    if raw is None:
        raise BadCheckpoint(f"{path}: {CONFIG} is missing: this directory is no checkpoint of Hugging Face")
    try:
        config = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path / CONFIG}: is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{path / CONFIG}: is no JSON object")
    return config


def _read(path: Path, most: int) -> bytes | None:
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise BadCheckpoint(f"{path}: is no file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise BadCheckpoint(f"{path}: is larger than the {most} bytes that such a file can have")
    return data


def _info(name: str, pieces: tuple[Piece, ...], stacked: bool) -> TensorInfo:
    """What the pieces of a tensor make together; BadCheckpoint where they do not fit."""
    first = pieces[0]
    for piece in pieces[1:]:
        alike = piece.shape == first.shape if stacked else piece.shape[1:] == first.shape[1:]
        if piece.type != first.type or not alike:
            raise BadCheckpoint(
                f"tensor {piece.name} is {piece.type} {piece.shape}, which does not go with {first.name}, "
                f"{first.type} {first.shape}"
            )
    shape = first.shape
    if stacked:
        shape = (len(pieces), *shape)
    elif len(pieces) > 1:
        shape = (sum(piece.shape[0] for piece in pieces), *shape[1:])
    block_type = BLOCK_TYPES[first.type]
    nbytes = math.prod(shape[:-1]) * block_type.row_bytes(shape[-1])
    return TensorInfo(name, shape, first.type, block_type.type_id, first.stored.offset, nbytes)


def _file_type(infos: Iterable[TensorInfo]) -> int:
    """The number of the type that takes the most bytes."""
    sizes: Counter[str] = Counter()
    for info in infos:
        sizes[info.type] += info.nbytes
    return FILE_TYPES[sizes.most_common(1)[0][0]] if sizes else FILE_TYPES["F32"]


def _plain(key: str, value: str | int | float | bool | list[Any]) -> Value:
    if not isinstance(value, list):
        return value
    kind = "?" if all(isinstance(item, bool) for item in value) else "<i4"
    return MetaArray.of(key, np.array(value, "<f4" if any(isinstance(item, float) for item in value) else kind))


def _joined(pieces: tuple[Piece, ...], start: int, stop: int, row_bytes: int) -> Bytes:
    runs, at = [], 0
    for piece in pieces:
        first, last = max(start - at, 0), min(stop - at, piece.num_rows)
        if first < last:
            runs.append(piece.read(first, last))
        at += piece.num_rows
    if not runs:
        return np.zeros((0, row_bytes), np.uint8)
    return runs[0] if len(runs) == 1 else np.concatenate(runs)
