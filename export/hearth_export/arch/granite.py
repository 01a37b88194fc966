"""granite: Granite 3 and 4, dense: llama with scales on embedding, attention, residual and logits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import Facts, Sizes
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec, Rope
from hearth_export.translation import (
    Config,
    Translation,
    decoder_metadata,
    drop_tied_head,
    number,
    only,
    renamed,
)

PREFIX = "granite"
MAX_SCALE = 1e6
# GGUF key -> key of config.json. The last one divides.
SCALES = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a granite checkpoint."""
    return granite_spec(Facts(checkpoint, PREFIX))


def granite_spec(facts: Facts, **more: Any) -> ModelSpec:
    """The ModelSpec of a granite, with `more` of its fields."""
    sizes = facts.decoder_sizes()
    ropes, layer_ropes = _ropes(facts, sizes)
    return ModelSpec(
        architecture=facts.prefix,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=ropes,
        layer_ropes=layer_ropes,
        attention_scale=facts.number("attention.scale", 0, MAX_SCALE, 0.0),
        embedding_scale=facts.number("embedding_scale", 0, MAX_SCALE, 0.0) or 1.0,  # 0 is none, as in llama.cpp
        residual_scale=facts.number("residual_scale", 0, MAX_SCALE, 0.0) or 1.0,
        logit_scale=1 / facts.number("logit_scale", 1 / MAX_SCALE, MAX_SCALE),
        read_tensors=rope.TENSORS,
        **more,
    )


def _ropes(facts: Facts, sizes: Sizes) -> tuple[tuple[Rope, ...], tuple[int, ...]]:
    """The rope and which layers turn: a file can switch rotary embedding off for all of them."""
    if not facts.flag("rope.scaling.finetuned", True):
        return (), (-1,) * sizes["num_layers"]
    checkpoint = facts.checkpoint
    interleaved = checkpoint.format == "gguf"  # conversion permutes the rows of q and k as llama's
    return (rope.read_rope(checkpoint, facts.prefix, sizes["head_dim"], rows_interleaved=interleaved),), ()


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Granite checkpoint of Hugging Face in GGUF's words."""
    metadata, vectors = granite_words(PREFIX, config)
    tensors = renamed(metadata[f"{PREFIX}.block_count"], names)
    ignored = drop_tied_head(config, tensors, tied=False)
    return Translation(PREFIX, metadata, tensors, ignored=ignored, vectors=vectors)


def granite_words(architecture: str, config: Config) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The keys of a granite, and the factors of its rope."""
    only(config, "hidden_act", "silu")
    metadata = decoder_metadata(architecture, config)
    words = translate_rope(architecture, config, metadata[f"{architecture}.attention.key_length"])
    metadata[f"{architecture}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-6)
    metadata |= {f"{architecture}.{ours}": number(config, theirs, 1.0) for ours, theirs in SCALES.items()}
    return metadata | words.metadata, words.vectors
