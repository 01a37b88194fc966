"""smollm3: SmolLM3, a llama of which every fourth layer does not turn its queries and keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import MAX_LAYERS, Facts
from hearth_export.arch.windows import SLIDING, read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec
from hearth_export.translation import (
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

PREFIX = "smollm3"
ROPE_PATTERN = "attention.rope_pattern"  # whether each layer turns; llama.cpp goes by the period alone
PERIOD = 4
EVERY_LAYER = 0
BASE = 2000000.0


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a smollm3 checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    num_layers = sizes["num_layers"]
    turns = facts.per_layer(ROPE_PATTERN, num_layers) or [(layer + 1) % PERIOD for layer in range(num_layers)]
    interleaved = checkpoint.format == "gguf"  # conversion permutes the rows of q and k as llama's
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=interleaved),),
        layer_ropes=tuple(0 if turn else -1 for turn in turns),
        windows=read_windows(facts, num_layers, EVERY_LAYER),
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A SmolLM3 checkpoint of Hugging Face in GGUF's words."""
    only(config, "hidden_act", "silu")
    metadata = decoder_metadata(PREFIX, config)
    num_layers, head_dim = metadata[f"{PREFIX}.block_count"], metadata[f"{PREFIX}.attention.key_length"]
    metadata[f"{PREFIX}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-6)
    turns = _turns(config, num_layers)
    metadata[f"{PREFIX}.{ROPE_PATTERN}"] = turns
    metadata |= _windows(config, turns)
    words = translate_rope(PREFIX, config, head_dim, BASE)
    tensors = renamed(num_layers, names)
    ignored = drop_tied_head(config, tensors, tied=True)
    return Translation(PREFIX, metadata | words.metadata, tensors, ignored=ignored, vectors=words.vectors)


def _turns(config: Config, num_layers: int) -> list[bool]:
    """Whether each layer turns; `no_rope_layers` has 1 for those that do."""
    flags = config.get("no_rope_layers")
    if flags is None:
        interval = whole(config, "no_rope_layer_interval", PERIOD)
        return [(layer + 1) % interval != 0 for layer in range(num_layers)]
    if not isinstance(flags, list) or len(flags) < num_layers or not all(value in (0, 1) for value in flags):
        raise BadCheckpoint(f"config.json: no_rope_layers is no list of 0 or 1 for each of {num_layers} layers")
    return [bool(value) for value in flags[:num_layers]]


def _windows(config: Config, turns: list[bool]) -> dict[str, Any]:
    """Windows are switched on apart; where `layer_types` is absent, layers that do not turn have them."""
    if not flag(config, "use_sliding_window"):
        return {}
    kinds = config.get("layer_types") or ["full_attention" if turn else SLIDING for turn in turns]
    return translate_windows(PREFIX, {**config, "layer_types": kinds}, len(turns), MAX_LAYERS)
