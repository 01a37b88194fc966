"""llama: Llama 1 to 3.3, SmolLM2, TinyLlama, Mistral and others that llama.cpp files under this name."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export import rope
from hearth_export.arch.facts import Facts
from hearth_export.checkpoint import Checkpoint
from hearth_export.spec import ModelSpec
from hearth_export.translation import Config, Translation, decoder_metadata, number, renamed

PREFIX = "llama"


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a llama checkpoint, with its tensors' shapes checked against it."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    facts.require_usual("rope.dimension_count", sizes["head_dim"])
    facts.require_usual("expert_count", 0)
    interleaved = checkpoint.format == "gguf"  # llama.cpp's conversion permutes the rows of q and k
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=interleaved),),
        read_tensors=frozenset({rope.FACTORS}),
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Llama checkpoint of Hugging Face in GGUF's words."""
    metadata = decoder_metadata(PREFIX, config)
    metadata[f"{PREFIX}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-6)
    return Translation(PREFIX, metadata, renamed(metadata[f"{PREFIX}.block_count"], names))
