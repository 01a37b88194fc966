"""A repository that holds ONNX graphs, as a checkpoint: what its files say, and what the best graph for a CPU consists
of. The graph is taken as it is, so that nobody reads rows of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeVar

import onnx

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import Bytes
from hearth_export.readers.repository import CONFIG, Repository, read_object, refuse_foreign
from hearth_export.readers.skeleton import read_skeleton
from hearth_export.readers.values import MetaArray, TensorInfo

T = TypeVar("T", str, int, float, bool, MetaArray)

FORMAT = "onnx"
GENAI_CONFIG = "genai_config.json"
DIRECTORIES = ("", "onnx/")
MAX_NAME = 256

# Graphs that a CPU runs, the best first: few bytes and integer arithmetic, then floats. What only names bits of floats
# is slow there, and comes last. The names are those of transformers.js and of Optimum.
STEMS = ("model", "decoder_model_merged")
ENDINGS = ("_q4", "_int8", "_quantized", "_uint8", "", "_fp16", "_q4f16", "_bnb4")

KEPT_OF_GENAI = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_size", "num_attention_heads",
                 "num_hidden_layers", "num_key_value_heads")  # fmt: skip

_FLOAT_NAMES = {onnx.TensorProto.FLOAT: "F32", onnx.TensorProto.FLOAT16: "F16", onnx.TensorProto.BFLOAT16: "BF16"}
_INTEGER_NAMES = {onnx.TensorProto.INT8: "INT8", onnx.TensorProto.UINT8: "INT8"}


class OnnxRepository(Repository):
    """An open repository."""

    format = FORMAT

    def __init__(self, path: Path, graphs: list[str], config: dict[str, Any]) -> None:
        super().__init__(path, config)
        self.graphs = graphs  # relative names, the best first

    @cached_property
    def skeleton(self) -> onnx.ModelProto:
        """The best graph without its weights."""
        return read_skeleton(self.path / self.graphs[0])

    @cached_property
    def tensors(self) -> MappingProxyType[str, TensorInfo]:
        """The matrices, those of MatMulNBits in their own shape."""
        return MappingProxyType({info.name: info for info in tensor_infos(self.skeleton.graph)})

    @property
    def is_encoder(self) -> bool:
        return all(value.name != "logits" for value in self.skeleton.graph.output)

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Raises UnsupportedModel: weights in a graph stay as they are."""
        raise UnsupportedModel(
            f"{self.path}: an ONNX graph is served as it is; take the model as safetensors or GGUF to change it"
        )


def open_onnx(path: Path) -> OnnxRepository:
    """The repository at `path`. Raises BadCheckpoint and UnsupportedModel, which name the file."""
    genai = read_object(path, GENAI_CONFIG)
    config = read_object(path, CONFIG) or _of_genai(path, genai)
    if not config:
        raise BadCheckpoint(f"{path}: {CONFIG} is missing, so that nothing is known of the graph")
    refuse_foreign(path, config)
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
