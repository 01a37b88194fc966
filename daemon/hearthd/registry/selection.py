"""Which files of a hub repository make a model for this device, told by their names: ready ONNX or safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import msgspec

from hearthd.errors import TransferFailed
from hearthd.repository import ADAPTER_CONFIG
from hearthd.transfer.messages import NOT_FOUND, Listed

# model_type of config.json that the converter turns into a graph of its own, which then goes before a ready one
BUILT = frozenset((
    "bert", "camembert", "distilbert", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "granite", "granitemoe",
    "llama", "mistral", "mixtral", "modernbert", "nomic_bert", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe",
    "roberta", "smollm3", "starcoder2", "xlm-roberta",
))  # fmt: skip

CONFIG = "config.json"
GENAI_CONFIG = "genai_config.json"
MAX_LICENSE_BYTES = 1 << 20

# beside the weights: what describes the model, its vocabulary and how texts become vectors
WANTED = frozenset((
    CONFIG, GENAI_CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
))  # fmt: skip
_MODULE = re.compile(r"\d{1,2}_[A-Za-z]{1,40}/config\.json")  # of sentence-transformers: 1_Pooling/config.json
_LICENSE = re.compile(r"(licen[cs]e|copying)(\.txt|\.md)?", re.IGNORECASE)

INDEX_OF_PARTS = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_PART = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_OTHERS = ("adapter", "consolidated")  # safetensors that are no model, or the same one once more

# endings of onnx/model*.onnx, the one that suits a CPU best first; decoders bear four bits, encoders eight
_OF_DECODERS = ("_q4", "_int8", "_quantized", "_uint8", "", "_q4f16", "_fp16")
_OF_ENCODERS = ("_int8", "_quantized", "_uint8", "", "_fp16", "_q4", "_q4f16")
_GRAPH = re.compile(r"(?:onnx/)?(model|decoder_model_merged)(_[a-z0-9]+)?\.onnx")
_DATA = re.compile(r"[._]data(_\d+)?")  # what may follow a graph's name
_FOREIGN_DEVICE = re.compile(r"cuda|gpu|directml|dml|webgpu|web|npu|qnn|openvino|vitis|mobile-ios", re.IGNORECASE)

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_NOT_CHOSEN = "ask for a repository with safetensors, GGUF or ONNX"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one model."""

    files: dict[str, Listed]  # by their names in the checkpoint
    license: Listed | None = None

    @property
    def needed(self) -> list[Listed]:
        """All that is to be fetched."""
        return [*self.files.values(), *([self.license] if self.license else [])]


def needs_config(files: Sequence[Listed]) -> Listed | None:
    """config.json, where the choice depends on what it says."""
    return next((file for file in files if file.name == CONFIG), None) if _graphs(files) else None


def choose(files: Sequence[Listed], shown: str, *, model_type: str = "", is_decoder: bool = True) -> Selection:
    """The files to fetch. Raises TransferFailed, speaking of `shown`, where there is no model in a form that is read.

    Ready ONNX is taken unless there are safetensors of a kind that the converter knows.
    """
    weights, graphs = _safetensors(files), _graphs(files)
    if weights and (model_type in BUILT or not graphs):
        chosen = {file.name: file for file in [*weights, *_about(files)]}
    elif graphs:
        chosen = _ready(files, graphs, shown, is_decoder)
    else:
        raise TransferFailed(_why_not(files, shown), NOT_FOUND)
    if not {CONFIG, GENAI_CONFIG} & chosen.keys():
        raise TransferFailed(f"{shown} has no {CONFIG}, which says what its weights are; {_NOT_CHOSEN}", NOT_FOUND)
    return Selection(files=chosen, license=_license(files))


def _about(files: Iterable[Listed], folder: str = "") -> list[Listed]:
    """What is to be known beside the weights; of `folder`, "" or "path/"."""
    found = (file for file in files if file.name.startswith(folder))
    return [
        file
        for file in found
        if (name := file.name.removeprefix(folder)) in WANTED or (not folder and _MODULE.fullmatch(name))
    ]


def _license(files: Iterable[Listed]) -> Listed | None:
    return next((file for file in files if _LICENSE.fullmatch(file.name) and file.size <= MAX_LICENSE_BYTES), None)


def _safetensors(files: Iterable[Listed]) -> list[Listed]:
    """One file, or all parts and their index; as transformers does, one file goes before parts."""
    named = {file.name: file for file in files if "/" not in file.name}
    if _WHOLE in named:
        return [named[_WHOLE]]
    parts = [file for name, file in named.items() if _PART.fullmatch(name)]
    if parts and INDEX_OF_PARTS in named:
        return [*parts, named[INDEX_OF_PARTS]]
    endings = [file for name, file in named.items() if name.endswith(".safetensors") and not _PART.fullmatch(name)]
    others = [file for file in endings if not file.name.startswith(_OTHERS)]
    return others if len(others) == 1 else []


def _graphs(files: Iterable[Listed]) -> list[Listed]:
    """Graphs that may be the model's, those of folders of onnxruntime-genai among them."""
    listed = list(files)
    folders = {_folder(file.name) for file in listed if PurePosixPath(file.name).name == GENAI_CONFIG}
    return [
        file
        for file in listed
        if _GRAPH.fullmatch(file.name) or (file.name.endswith(".onnx") and _folder(file.name) in folders)
    ]


def _folder(name: str) -> str:
    """`a/b/` of `a/b/c`, "" of `c`."""
    return name[: name.rfind("/") + 1]


def _ready(files: Sequence[Listed], graphs: Sequence[Listed], shown: str, is_decoder: bool) -> dict[str, Listed]:
    folders = [_folder(file.name) for file in files if PurePosixPath(file.name).name == GENAI_CONFIG]
    if folders:
        return _genai(files, folders, shown)
    if any(re.search(r"(^|/)encoder_model[^/]*\.onnx$", file.name) for file in files):
        raise TransferFailed(f"{shown} is an encoder-decoder, in two graphs, which is not run; {_NOT_CHOSEN}")
    graph = min(graphs, key=lambda file: _rank(file.name, is_decoder))
    return {file.name: file for file in [graph, *_data_of(graph, files), *_about(files)]}


def _rank(name: str, is_decoder: bool) -> tuple[int, str]:
    match = _GRAPH.fullmatch(name)
    endings = _OF_DECODERS if is_decoder else _OF_ENCODERS
    ending = (match[2] or "") if match else None
    return (endings.index(ending) if ending in endings else len(endings), name)


def _data_of(graph: Listed, files: Iterable[Listed]) -> list[Listed]:
    return [
        file
        for file in files
        if file.name.startswith(graph.name) and _DATA.fullmatch(file.name.removeprefix(graph.name))
    ]


def _genai(files: Sequence[Listed], folders: Sequence[str], shown: str) -> dict[str, Listed]:
    """A whole folder, without its path in the names."""
    fitting = [folder for folder in folders if not _FOREIGN_DEVICE.search(folder.replace("cpu_and_mobile", "cpu"))]
    if not fitting:
        raise TransferFailed(f"{shown} holds ONNX for other devices only: {', '.join(folders)[:200]}; {_NOT_CHOSEN}")
    folder = min(fitting, key=lambda folder: ("cpu" not in folder, "int4" not in folder, folder))
    inside = [file for file in files if _folder(file.name) == folder]
    about = {file.name.removeprefix(folder) for file in _about(files, folder)}
    graphs = [file for file in inside if file.name.endswith(".onnx")]
    data = {file.name for graph in graphs for file in _data_of(graph, inside)}
    return {
        name: file
        for file in inside
        if (name := file.name.removeprefix(folder)) in about or file in graphs or file.name in data
    }


def _why_not(files: Sequence[Listed], shown: str) -> str:
    names = [file.name for file in files]
    if ADAPTER_CONFIG in names:
        return f"{shown} is an adapter; make a model of it by a Modelfile with FROM and ADAPTER"
    if pickled := next((name for name in names if PurePosixPath(name).suffix in _PICKLED), ""):
        what = f"{shown} has its weights as pickled Python ({pickled[:200]})"
        return f"{what}, which can run anything and is never read; {_NOT_CHOSEN}"
    if gguf := next((name for name in names if name.endswith(".gguf")), ""):
        return f"{shown} has GGUF files ({gguf[:200]} ...); name one of their quantizations as the tag, such as :Q4_K_M"
    return (
        f"{shown} holds no model: none of its {len(names)} files are safetensors, GGUF or ONNX that are known by name"
    )
