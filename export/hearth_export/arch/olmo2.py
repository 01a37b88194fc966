"""olmo2: OLMo 2 and 3: norms after attention and feed-forward only, and over all queries and all keys."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export import rope
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec, QKNorm
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

PREFIX = "olmo2"
NAMES = {ours: theirs for ours, theirs in LAYER_NAMES.items() if not ours.endswith("norm")} | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
PERIOD = 4  # of OLMo 3


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of an olmo2 checkpoint. Layers with a window turn without scaling."""
    prefix = checkpoint.require("general.architecture", str)  # Ollama calls OLMo 3 olmo3
    facts = Facts(checkpoint, prefix)
    sizes = facts.decoder_sizes()
    windows = read_windows(facts, sizes["num_layers"], PERIOD)
    ropes = [rope.read_rope(checkpoint, prefix, sizes["head_dim"], rows_interleaved=False)]
    if windows:
        base = facts.number("rope.freq_base", rope.MIN_BASE, rope.MAX_BASE, 10000.0)
        ropes.append(rope.read_window_rope(checkpoint, prefix, sizes["head_dim"], base))
    return ModelSpec(
        architecture=prefix,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=tuple(ropes),
        layer_ropes=tuple(int(window > 0) for window in windows),
        windows=windows,
        qk_norm=QKNorm.WHOLE,
        pre_norms=False,
        post_norms=True,
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """An OLMo 2 or OLMo 3 checkpoint of Hugging Face in GGUF's words."""
    only(config, "hidden_act", "silu")
    metadata = decoder_metadata(PREFIX, config)
    num_layers, head_dim = metadata[f"{PREFIX}.block_count"], metadata[f"{PREFIX}.attention.key_length"]
    metadata[f"{PREFIX}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-5)
    if config.get("model_type") == "olmo3":
        metadata |= translate_windows(PREFIX, {"sliding_window": 4096, **config}, num_layers, PERIOD)
    words = translate_rope(PREFIX, config, head_dim)
    tensors = renamed(num_layers, names, NAMES)
    ignored = drop_tied_head(config, tensors, tied=False)
    return Translation(PREFIX, metadata | words.metadata, tensors, ignored=ignored, vectors=words.vectors)
