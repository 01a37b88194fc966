"""A repository that holds ONNX graphs, as a checkpoint: what its files say, and what the best graph for a CPU consists
of. The graph is taken as it is, so that nobody reads rows of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec
import onnx

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import Bytes
from hearth_export.readers.gguf import MetaArray, TensorInfo, Value, typed_value
from hearth_export.readers.skeleton import read_skeleton
from hearth_export.sentences import sentence_metadata

T = TypeVar("T", str, int, float, bool, MetaArray)

FORMAT = "onnx"
CONFIG, GENAI_CONFIG = "config.json", "genai_config.json"
DIRECTORIES = ("", "onnx/")
MAX_FILE_BYTES = 64 << 20
MAX_NAME = 256
DEFAULT_CONTEXT = 2048  # tokens, where positions are not bounded by a table

# Graphs that a CPU runs, the best first: few bytes and integer arithmetic, then floats. What only names bits of floats
# is slow there, and comes last. The names are those of transformers.js and of Optimum.
STEMS = ("model", "decoder_model_merged")
ENDINGS = ("_q4", "_int8", "_quantized", "_uint8", "", "_fp16", "_q4f16", "_bnb4")

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
KEPT_OF_GENAI = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_size", "num_attention_heads",
                 "num_hidden_layers", "num_key_value_heads")  # fmt: skip
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "xmod", "data2vec-text")

_FLOAT_NAMES = {onnx.TensorProto.FLOAT: "F32", onnx.TensorProto.FLOAT16: "F16", onnx.TensorProto.BFLOAT16: "BF16"}
_INTEGER_NAMES = {onnx.TensorProto.INT8: "INT8", onnx.TensorProto.UINT8: "INT8"}


class OnnxRepository:
    """An open repository."""

    format = FORMAT

    def __init__(self, path: Path, graphs: list[str], config: dict[str, Any]) -> None:
        self.path = path
        self.graphs = graphs  # relative names, the best first
        self.config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open between calls."""

    @cached_property
    def skeleton(self) -> onnx.ModelProto:
        """The best graph without its weights."""
        return read_skeleton(self.path / self.graphs[0])

    @cached_property
    def tensors(self) -> MappingProxyType[str, TensorInfo]:
        """The matrices, those of MatMulNBits in their own shape."""
        return MappingProxyType({info.name: info for info in tensor_infos(self.skeleton.graph)})

    @cached_property
    def metadata(self) -> MappingProxyType[str, Value]:
        """What config.json and sentence-transformers' files say, in GGUF's words."""
        architecture = str(self.config.get("model_type") or "onnx")[:64]
        found: dict[str, Value] = {"general.architecture": architecture}
        for key, names in SYNONYMS.items():
            if (number := self._number(names)) is not None:
                found[f"{architecture}.{key}"] = number
        if architecture in POSITIONS_AFTER_PADDING:  # the first positions of the table are padding's
            length = found.get(f"{architecture}.context_length")
            if isinstance(length, int):
                found[f"{architecture}.context_length"] = max(1, length - 1 - self.pad_id)
        found.setdefault(f"{architecture}.context_length", DEFAULT_CONTEXT)
        return MappingProxyType(found | sentence_metadata(architecture, self.read_file))

    @property
    def pad_id(self) -> int:
        value = self.config.get("pad_token_id")
        return value if type(value) is int and 0 <= value < 1 << 31 else 0

    def fact(self, key: str, default: int = 0) -> int:
        """A number of the model, by GGUF's name without the architecture."""
        return self.get(f"{self.metadata['general.architecture']}.{key}", int, default)

    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: None = None) -> T | None: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """The value, or `default` where the key is absent; BadCheckpoint where it has another type."""
        return typed_value(self.path, self.metadata, key, kind, default)

    def require(self, key: str, kind: type[T]) -> T:
        """As `get`, but BadCheckpoint where the key is absent."""
        value = self.get(key, kind)
        if value is None:
            raise BadCheckpoint(f"{self.path}: {CONFIG} does not say {key}")
        return value

    def tensor(self, name: str) -> TensorInfo:
        """BadCheckpoint where there is no such tensor."""
        info = self.tensors.get(name)
        if info is None:
            raise BadCheckpoint(f"{self.path}: tensor {name} is missing")
        return info

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Raises UnsupportedModel: weights in a graph stay as they are."""
        raise UnsupportedModel(
            f"{self.path}: an ONNX graph is served as it is; take the model as safetensors or GGUF to change it"
        )

    def release(self, name: str) -> None:
        """Nothing is held."""

    def release_all(self) -> None:
        """Nothing is held."""

    def read_file(self, name: str) -> bytes | None:
        """A file of the directory; config.json, where there is none, from what genai_config.json says."""
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


def open_onnx(path: Path) -> OnnxRepository:
    """The repository at `path`. Raises BadCheckpoint and UnsupportedModel, which name the file."""
    genai = _object(path, GENAI_CONFIG)
    config = _object(path, CONFIG) or _of_genai(path, genai)
    if not config:
        raise BadCheckpoint(f"{path}: {CONFIG} is missing, so that nothing is known of the graph")
    for sign in ("vision_config", "audio_config"):
        if sign in config:
            raise UnsupportedModel(f"{path}: {CONFIG} has {sign}: ready graphs are served for text alone")
    if config.get("is_encoder_decoder") is True:
        raise UnsupportedModel(
            f"{path}: {CONFIG}: model_type '{str(config.get('model_type'))[:64]}' is an encoder with a decoder, "
            "which cannot be served"
        )
    return OnnxRepository(path, list(_graphs(path, genai)), config)


def _graphs(path: Path, genai: dict[str, Any]) -> list[str]:
    """The names of graphs that can be taken, the best first. UnsupportedModel where there is none."""
    if genai:
        return [_genai_graph(path, genai)]
    names = [f"{place}{stem}{ending}.onnx" for ending in ENDINGS for stem in STEMS for place in DIRECTORIES]
    if found := [name for name in names if (path / name).is_file()]:
        return found
    others = [f"{place}{file.name}" for place in DIRECTORIES for file in sorted((path / place).glob("*.onnx"))]
    if len(others) == 1:
        return others
    raise UnsupportedModel(
        f"{path}: none of the graphs is a whole model: {', '.join(others)[:MAX_NAME] or 'there is no *.onnx'}; "
        "one called model.onnx, or onnx/model_q4.onnx and the like, is expected"
    )


def _genai_graph(path: Path, genai: dict[str, Any]) -> str:
    model = genai.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    name = decoder.get("filename") if isinstance(decoder, dict) else None
    if isinstance(model, dict) and (others := sorted({"vision", "speech", "encoder", "embedding"} & set(model))):
        raise UnsupportedModel(f"{path}: {GENAI_CONFIG}: the model has a part '{others[0]}', which cannot be served")
    if not isinstance(name, str) or not is_plain_name(name) or not (path / name).is_file():
        raise BadCheckpoint(f"{path}: {GENAI_CONFIG}: model.decoder.filename is {str(name)[:64]!r}, no file of it")
    return name


def _of_genai(path: Path, genai: dict[str, Any]) -> dict[str, Any]:
    """config.json as far as genai_config.json says what belongs there."""
    model = genai.get("model")
    if not isinstance(model, dict):
        return {}
    decoder = model.get("decoder")
    values = {**decoder, **model} if isinstance(decoder, dict) else model
    renamed = {"context_length": "max_position_embeddings", "type": "model_type", "head_size": "head_dim"}
    return {renamed.get(key, key): values[key] for key in (*renamed, *KEPT_OF_GENAI) if key in values}


def is_plain_name(name: str) -> bool:
    """Whether it names a file of the same directory, and nothing else."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,254}", name)) and PurePosixPath(name).name == name


def tensor_infos(graph: onnx.GraphProto) -> Iterator[TensorInfo]:
    """What the initializers hold: their own shapes, those of packed matrices unpacked, without what scales them."""
    packed = {node.input[1]: node for node in graph.node if node.op_type in ("MatMulNBits", "MatMulBnb4")}
    scales = {name for node in packed.values() for name in node.input[2:4]}
    for tensor in graph.initializer:
        dims, kind = tuple(tensor.dims), _FLOAT_NAMES.get(tensor.data_type) or _INTEGER_NAMES.get(tensor.data_type)
        if node := packed.get(tensor.name):
            numbers = {attribute.name: attribute.i for attribute in node.attribute}
            dims, kind = (numbers.get("N", 0), numbers.get("K", 0)), f"INT{numbers.get('bits', 4)}"
        if kind is not None and tensor.name not in scales and len(dims) > 0:
            yield TensorInfo(tensor.name[:MAX_NAME], dims, kind, 0, 0, math.prod(dims) * _bits(kind) // 8)


def _bits(kind: str) -> int:
    return int(kind.lstrip("BFINT"))


def _object(path: Path, name: str) -> dict[str, Any]:
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
