"""A decoder's checkpoint of which only the header says something: read_spec reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hearth_export.readers.gguf import open_gguf
from hearth_export.spec import ModelSpec, read_spec
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf

HIDDEN_SIZE = 64
NUM_LAYERS = 6
HEAD_DIM = 16
CONTEXT_LENGTH = 4096


def write_header(path: Path, architecture: str, keys: Mapping[str, Meta], *tensors: Tensor) -> Path:
    """A file with the keys that every decoder has, and `keys` under the architecture's prefix."""
    usual: dict[str, Meta] = {
        "block_count": NUM_LAYERS,
        "context_length": CONTEXT_LENGTH,
        "embedding_length": HIDDEN_SIZE,
        "feed_forward_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    metadata: dict[str, Meta] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in {**usual, **keys}.items()}
    return write_gguf(path, metadata, [Tensor("token_embd.weight", (320, HIDDEN_SIZE)), *tensors])


def spec_of(root: Path, architecture: str, keys: Mapping[str, Meta] | None = None, *tensors: Tensor) -> ModelSpec:
    """What read_spec makes of such a file."""
    with open_gguf(write_header(root / "header.gguf", architecture, keys or {}, *tensors)) as gguf:
        spec = read_spec(gguf)
    assert isinstance(spec, ModelSpec)
    return spec
