"""llama: Llama 1 to 3.3, SmolLM2, TinyLlama, Mistral, Mixtral and others that llama.cpp files under this name."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export import rope
from hearth_export.arch.experts import read_experts
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec
from hearth_export.translation import Config, Translation, decoder_metadata, drop_tied_head, number, only, renamed

PREFIX = "llama"


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a llama checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    facts.require_usual("rope.dimension_count", sizes["head_dim"])
    interleaved = checkpoint.format == "gguf"  # llama.cpp's conversion permutes the rows of q and k
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=interleaved),),
        windows=read_windows(facts, sizes["num_layers"], 1),
        experts=read_experts(facts, sizes["ffn_size"]),
        pooling=facts.pooling(),
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Llama checkpoint of Hugging Face in GGUF's words."""
    only(config, "hidden_act", "silu")
    metadata = decoder_metadata(PREFIX, config)
    metadata[f"{PREFIX}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-6)
    words = translate_rope(PREFIX, config, metadata[f"{PREFIX}.attention.key_length"])
    tensors = renamed(metadata[f"{PREFIX}.block_count"], names)
    ignored = drop_tied_head(config, tensors, tied=False)
    return Translation(PREFIX, metadata | words.metadata, tensors, ignored=ignored, vectors=words.vectors)
