"""What sentence-transformers' files say of a checkpoint: how a text's tokens become one vector, how long a text may be.

Prompts that they may name are the client's affair. Vectors are brought to a length of 1, or not, as a request wants.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from hearth_export.errors import BadCheckpoint, UnsupportedModel

MODULES = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
PLAIN = ("Transformer", "Normalize")  # modules that change nothing here
# the mode's name, and GGUF's number for it (`llama_pooling_type` in llama.cpp's llama.h)
MODES = {"mean": 1, "cls": 2, "lasttoken": 3}
FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken"}

ReadFile = Callable[[str], bytes | None]


def sentence_metadata(architecture: str, read_file: ReadFile) -> dict[str, int]:
    """The keys {architecture}.pooling_type and, where texts are cut there, {architecture}.context_length.

    {} for a checkpoint that is not of sentence-transformers. UnsupportedModel names a module or a mode that has no
    place in a graph, BadCheckpoint a file that cannot be understood.
    """
    modules = _json(read_file, MODULES)
    if modules is None:
        return {}
    if not isinstance(modules, list):
        raise BadCheckpoint(f"{MODULES}: is no list of modules")
    found: dict[str, int] = {}
    for module in modules:
        kind, path = _module(module)
        if kind == "Pooling":
            found[f"{architecture}.pooling_type"] = MODES[_mode(read_file, f"{path}/config.json")]
        elif kind not in PLAIN:
            raise UnsupportedModel(f"{MODULES}: a module of the kind {kind[:64]}, which cannot be converted")
    return found | _length(architecture, read_file)


def _module(module: Any) -> tuple[str, str]:
    """The last part of a module's type, and its directory."""
    kind = module.get("type") if isinstance(module, dict) else None
    path = module.get("path", "") if isinstance(module, dict) else None
    if not isinstance(kind, str) or not isinstance(path, str):
        raise BadCheckpoint(f"{MODULES}: a module without type and path")
    if not re.fullmatch(r"[\w-]*", path):
        raise BadCheckpoint(f"{MODULES}: a module's path is {path[:64]!r}, which is no directory's name")
    return kind.rpartition(".")[2], path


def _mode(read_file: ReadFile, name: str) -> str:
    """The one mode of a Pooling module."""
    config = _json(read_file, name)
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{name}: is missing, or no JSON object")
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    modes = [config["pooling_mode"]] if "pooling_mode" in config else [FLAGS.get(key, key) for key in chosen]
    if len(modes) != 1 or modes[0] not in MODES:
        raise UnsupportedModel(
            f"{name}: pools by {', '.join(map(str, modes)) or 'nothing'}; "
            f"only one of {', '.join(MODES)} can be converted"
        )
    return str(modes[0])


def _length(architecture: str, read_file: ReadFile) -> dict[str, int]:
    config = _json(read_file, LENGTH_FILE)
    length = config.get("max_seq_length") if isinstance(config, dict) else None
    return {f"{architecture}.context_length": length} if type(length) is int and length > 0 else {}


def _json(read_file: ReadFile, name: str) -> Any:
    raw = read_file(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{name}: is no JSON: {error}") from error
