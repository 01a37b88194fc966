"""qwen2: Qwen 2 and 2.5, and the distilled DeepSeek R1 models made of them; biases on q, k and v."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import FULL, SLIDING, read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec
from hearth_export.translation import (
    LAYER_NAMES,
    Config,
    Translation,
    decoder_metadata,
    drop_tied_head,
    flag,
    number,
    only,
    renamed,
    whole,
)

PREFIX = "qwen2"


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a qwen2 checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    facts.require_usual("rope.dimension_count", sizes["head_dim"])
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=read_windows(facts, sizes["num_layers"], 1),
        pooling=facts.pooling(),
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Qwen2 checkpoint of Hugging Face in GGUF's words."""
    return translation_as(PREFIX, config, names)


def translation_as(
    architecture: str, config: Config, names: Collection[str], layer_names: dict[str, str] = LAYER_NAMES
) -> Translation:
    """The translation of any dense part of Qwen, under an architecture's prefix."""
    only(config, "hidden_act", "silu")
    metadata = decoder_metadata(architecture, config)
    metadata[f"{architecture}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-6)
    words = translate_rope(architecture, config, metadata[f"{architecture}.attention.key_length"])
    num_layers = metadata[f"{architecture}.block_count"]
    tensors = renamed(num_layers, names, layer_names)
    ignored = drop_tied_head(config, tensors, tied=False)
    metadata |= words.metadata | _windows(architecture, config, num_layers)
    return Translation(architecture, metadata, tensors, ignored=ignored, vectors=words.vectors)


def _windows(architecture: str, config: Config, num_layers: int) -> dict[str, Any]:
    if not flag(config, "use_sliding_window", False):
        return {}
    if config.get("layer_types") is None:
        first = whole(config, "max_window_layers", 0, least=0)
        kinds = [SLIDING if layer >= first else FULL for layer in range(num_layers)]
        config = {**config, "layer_types": kinds}
    return translate_windows(architecture, config, num_layers, 0)
