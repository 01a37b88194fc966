"""Which files of a directory are a checkpoint, told by their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from hearthd.errors import BadRequest

GGUF, SAFETENSORS, ONNX = "gguf", "safetensors", "onnx"  # several GGUF files are the parts of one model
ADAPTER_CONFIG = "adapter_config.json"
MAX_DEPTH = 3  # onnx/model.onnx, 1_Pooling/config.json
MAX_FILES = 4096

_WEIGHTS = {GGUF: (".gguf",), SAFETENSORS: (".safetensors",), ONNX: (".onnx",)}  # what tells the format, best first
_ONNX_DATA = re.compile(r".+\.onnx[._]data(_\d+)?|.+\.bin")  # beside a graph
_ABOUT = (".json", ".jinja", ".txt", ".model")  # configuration and vocabulary
_FOREIGN = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}


def format_of(names: Iterable[str]) -> str:
    """GGUF, SAFETENSORS or ONNX, whichever of these the files hold. BadRequest where they hold none."""
    known = list(names)
    for kind, endings in _WEIGHTS.items():
        if any(name.endswith(endings) for name in known):
            return kind
    if foreign := sorted(name for name in known if PurePosixPath(name).suffix in _FOREIGN):
        raise BadRequest(
            f"unknown type: {foreign[0][:200]} holds weights in a form that is not read: "
            "take the model as safetensors, GGUF or ONNX"
        )
    raise BadRequest("unknown type: there is no *.safetensors, *.gguf or *.onnx among the files")


def belongs(name: str, kind: str) -> bool:
    """Whether a file of that relative name is part of a checkpoint of that format."""
    if kind == GGUF:
        return name.endswith(".gguf")
    if name.endswith(_WEIGHTS[kind]) or (
        name.endswith(_ABOUT) and not name.lower().endswith(("readme.txt", "license.txt"))
    ):
        return True
    return kind == ONNX and _ONNX_DATA.fullmatch(name) is not None


def checkpoint_files(directory: Path) -> dict[str, Path]:
    """The files of the checkpoint in a directory, by relative name. BadRequest, OSError.

    Hidden files and what lies deeper than MAX_DEPTH are none of it; nor are the copies of other formats.
    """
    found = dict(_walked(directory, "", MAX_DEPTH))
    kind = format_of(name for name in found if "/" not in name or not name.endswith(".safetensors"))
    chosen = {name: path for name, path in found.items() if belongs(name, kind) and _is_level(name, kind)}
    if len(chosen) > MAX_FILES:
        raise BadRequest(f"{directory} has {len(chosen)} files, more than the {MAX_FILES} that a checkpoint can have")
    return chosen


def adapter_files(directory: Path) -> list[Path]:
    """The files of the adapter in a directory: a GGUF file, or safetensors and what describes them. BadRequest."""
    safetensors = sorted(directory.glob("adapter*.safetensors"))
    if (directory / ADAPTER_CONFIG).is_file() and safetensors:
        return [directory / ADAPTER_CONFIG, *safetensors[:MAX_FILES]]
    if gguf := sorted(directory.glob("*.gguf")):
        return gguf
    raise BadRequest(f"the directory holds no {ADAPTER_CONFIG} with adapter_model.safetensors, and no GGUF file")


def _is_level(name: str, kind: str) -> bool:
    """Weights of safetensors and GGUF lie in the directory itself: those below are other models or older copies."""
    return "/" not in name or kind == ONNX or not name.endswith(_WEIGHTS[kind])


def _walked(directory: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        if entry.is_file():
            yield name, Path(entry.path)
        elif entry.is_dir() and depth > 1 and not entry.is_symlink():
            yield from _walked(Path(entry.path), f"{name}/", depth - 1)
