"""phi3: Phi-3, Phi-3.5 and Phi-4, mini and larger: fused matrices, rotary over a part of a head, longrope."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec
from hearth_export.translation import (
    LAYER_NAMES,
    Config,
    Translation,
    decoder_metadata,
    drop_tied_head,
    number,
    only,
    renamed,
)

PREFIX = "phi3"
NAMES = LAYER_NAMES | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
EVERY_LAYER = 0
DEFAULTS: dict[str, Any] = {"original_max_position_embeddings": 4096, "max_position_embeddings": 4096}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a phi3 checkpoint. A window is kept, as the model was trained; llama.cpp goes without."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    windows = read_windows(facts, sizes["num_layers"], EVERY_LAYER)
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=windows if max(windows, default=0) < sizes["context_length"] else (),
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Phi-3 or Phi-4 checkpoint of Hugging Face in GGUF's words."""
    only(config, "hidden_act", "silu")
    config = _with_longrope({**DEFAULTS, **config})
    metadata = decoder_metadata(PREFIX, config)
    num_layers, head_dim = metadata[f"{PREFIX}.block_count"], metadata[f"{PREFIX}.attention.key_length"]
    metadata[f"{PREFIX}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-5)
    metadata |= translate_windows(PREFIX, config, num_layers, EVERY_LAYER)
    words = translate_rope(PREFIX, config, head_dim)
    tensors = renamed(num_layers, names, NAMES)
    ignored = drop_tied_head(config, tensors, tied=False)
    return Translation(PREFIX, metadata | words.metadata, tensors, ignored=ignored, vectors=words.vectors)


def _with_longrope(config: Config) -> Config:
    """Early configs call longrope "su" or "yarn"; with factors a frequency it is longrope."""
    block = config.get("rope_scaling")
    if isinstance(block, Mapping) and "long_factor" in block:
        return {**config, "rope_scaling": {**block, "rope_type": "longrope"}}
    return config
