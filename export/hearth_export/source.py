"""What a checkpoint says of itself: SourceInfo from its metadata and tensor list."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from typing import Any

from hearth_export.checkpoint import Checkpoint
from hearth_export.readers.values import MetaArray
from hearth_export.repository_files import RepositoryFiles
from hearthd.store.variant import SourceInfo, SourceTensor

LONG_ARRAY = 1024  # longer ones are null unless asked for

# `llama_ftype` in llama.cpp's llama.h
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


def describe(checkpoint: Checkpoint, verbose: bool = False) -> SourceInfo:
    """The SourceInfo of an open checkpoint; `verbose` keeps long arrays."""
    architecture = checkpoint.require("general.architecture", str)
    chat_template, bos_token, eos_token = _texts(checkpoint)
    return SourceInfo(
        format=checkpoint.format,
        architecture=architecture,
        file_type=_file_type(checkpoint),
        parameter_count=parameter_count(checkpoint),
        context_length=checkpoint.get(f"{architecture}.context_length", int, 0),
        embedding_length=checkpoint.get(f"{architecture}.embedding_length", int, 0),
        chat_template=chat_template,
        bos_token=bos_token,
        eos_token=eos_token,
        metadata={key: _plain(value, verbose) for key, value in checkpoint.metadata.items()},
        tensors=[SourceTensor(t.name, t.type, list(reversed(t.shape))) for t in checkpoint.tensors.values()],
    )


def _texts(checkpoint: Checkpoint) -> tuple[str | None, str, str]:
    """The chat template, and the texts of the tokens that begin and end a text; a repository has them in its files."""
    if checkpoint.format == "gguf":
        template = checkpoint.get("tokenizer.chat_template", str)
        bos, eos = (_token(checkpoint, f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos"))
        return template, bos, eos
    files = RepositoryFiles(checkpoint)
    return files.chat_template(), files.text_of("bos_token") or "", files.text_of("eos_token") or ""


def parameter_count(checkpoint: Checkpoint) -> int:
    """Weights of all tensors."""
    return sum(math.prod(info.shape) for info in checkpoint.tensors.values())


def _token(checkpoint: Checkpoint, key: str) -> str:
    """The text of the token whose id `key` holds; "" where there is none."""
    tokens = checkpoint.metadata.get("tokenizer.ggml.tokens")
    token_id = checkpoint.get(key, int, -1)
    if not isinstance(tokens, MetaArray) or not 0 <= token_id < len(tokens):
        return ""
    return str(_plain(next(islice(tokens, token_id, None)), False))


def _file_type(checkpoint: Checkpoint) -> str:
    """The quantization's name; the commonest block type where the file names none that is known."""
    declared = FILE_TYPES.get(checkpoint.get("general.file_type", int, -1))
    if declared:
        return declared
    sizes: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        sizes[info.type] += math.prod(info.shape)
    return sizes.most_common(1)[0][0] if sizes else "unknown"


def _plain(value: Any, verbose: bool) -> Any:
    if isinstance(value, MetaArray):
        value = value.tolist() if verbose or len(value) <= LONG_ARRAY else None
        return [_plain(item, verbose) for item in value] if value is not None else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
