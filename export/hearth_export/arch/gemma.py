"""gemma: Gemma 1 and CodeGemma; what the later ones share with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import Facts
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import Activation, ModelSpec
from hearth_export.translation import (
    Config,
    Source,
    Translation,
    decoder_metadata,
    drop_tied_head,
    number,
    only,
    renamed,
)

PREFIX = "gemma"
TANH = "gelu_pytorch_tanh"
DEFAULTS: dict[str, Any] = {"head_dim": 256, "num_attention_heads": 16, "num_key_value_heads": 16}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a gemma checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        embedding_scale=sizes["hidden_size"] ** 0.5,  # not in the file
        activation=Activation.GELU_TANH,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Gemma checkpoint of Hugging Face in GGUF's words."""
    # Early configs say "gelu" and mean its approximation, which the model was trained with.
    only(config, "hidden_act", TANH, "gelu")
    only(config, "hidden_activation", TANH, None)
    config = {**DEFAULTS, **config}
    metadata = gemma_metadata(PREFIX, config)
    words = translate_rope(PREFIX, config, metadata[f"{PREFIX}.attention.key_length"])
    tensors = renamed(metadata[f"{PREFIX}.block_count"], names)
    ignored = drop_tied_head(config, tensors, tied=True)
    return Translation(PREFIX, metadata | words.metadata, shifted(tensors), ignored=ignored, vectors=words.vectors)


def gemma_metadata(architecture: str, config: Config) -> dict[str, Any]:
    """The keys of all Gemmas, but for their rotary settings."""
    epsilon = number(config, "rms_norm_eps", 1e-6)
    return decoder_metadata(architecture, config) | {f"{architecture}.attention.layer_norm_rms_epsilon": epsilon}


def shifted(tensors: Mapping[str, tuple[Source, ...]]) -> dict[str, tuple[Source, ...]]:
    """Gemma's norms multiply by 1 + weight; GGUF stores the sum."""
    return {
        name: tuple(replace(source, added=1.0) for source in sources) if name.endswith("norm.weight") else sources
        for name, sources in tensors.items()
    }
