"""modern-bert: ModernBERT: norms before attention and network, rotary positions, a window in two layers of three."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hearth_export import rope
from hearth_export.arch.encoders import encoder_metadata, encoder_sizes, encoder_tensors, without
from hearth_export.arch.facts import MAX_CONTEXT, MAX_LAYERS, Facts
from hearth_export.arch.windows import sliding_layers
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import FULL, SLIDING, plain_base
from hearth_export.spec import EncoderSpec
from hearth_export.translation import Config, Translation, number, only, whole

PREFIX = "modern-bert"
PATTERN = "attention.sliding_window_pattern"
PERIOD = 3  # the first layer of so many sees the whole text
LOCAL_BASE, GLOBAL_BASE = 10000.0, 160000.0
WINDOW = 128
MODEL_NAMES = {
    "token_embd": "embeddings.tok_embeddings",
    "token_embd_norm": "embeddings.norm",
    "output_norm": "final_norm",
}
LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "ffn_up": "mlp.Wi",
    "ffn_down": "mlp.Wo",
}


def read_spec(checkpoint: Checkpoint) -> EncoderSpec:
    """The EncoderSpec of a modern-bert checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = encoder_sizes(facts, "gelu")
    window = facts.count("attention.sliding_window", MAX_CONTEXT, 0, least=0)
    sliding = facts.per_layer(PATTERN, sizes["num_layers"])
    if sliding is None:
        period = facts.count(PATTERN, MAX_LAYERS, PERIOD)
        sliding = [int(layer % period != 0) for layer in range(sizes["num_layers"])]
    sees_all = [not (window and slides) for slides in sliding]
    everywhere = rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False)
    nearby = rope.read_window_rope(checkpoint, PREFIX, sizes["head_dim"], LOCAL_BASE)
    return EncoderSpec(
        architecture=PREFIX,
        **sizes,
        gated=True,
        pre_norms=True,
        first_norm="blk.0.attn_norm.weight" in checkpoint.tensors,
        ropes=(everywhere, nearby),
        layer_ropes=tuple(0 if sees else 1 for sees in sees_all),
        windows=tuple(0 if sees else window for sees in sees_all),
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A ModernBERT checkpoint of Hugging Face in GGUF's words: those of transformers 4, or of 5."""
    only(config, "position_embedding_type", "absolute", None)
    only(config, "rope_scaling", None)
    global_base, local_base = _bases(config)
    keys = {"hidden_act": "hidden_activation"}
    metadata: dict[str, Any] = encoder_metadata(PREFIX, config, keys, whole(config, "max_position_embeddings"))
    metadata |= {
        f"{PREFIX}.attention.layer_norm_epsilon": number(config, "norm_eps", 1e-5),
        f"{PREFIX}.attention.sliding_window": whole(config, "local_attention", WINDOW),
        f"{PREFIX}.{PATTERN}": _pattern(config, metadata[f"{PREFIX}.block_count"]),
        f"{PREFIX}.rope.freq_base": global_base,
        f"{PREFIX}.rope.freq_base_swa": local_base,
    }
    tensors = encoder_tensors(metadata[f"{PREFIX}.block_count"], names, MODEL_NAMES, LAYER_NAMES, "layers", ("model.",))
    return Translation(PREFIX, metadata, tensors, ignored=without(names, "head.", "decoder."))


def _bases(config: Config) -> tuple[float, float]:
    """Of the rotary frequencies of layers that see everything, and of those that see a window."""
    if config.get("rope_parameters") is not None:
        return plain_base(config, FULL, GLOBAL_BASE), plain_base(config, SLIDING, LOCAL_BASE)
    base = number(config, "global_rope_theta", GLOBAL_BASE)
    if config.get("local_rope_theta", 0) is None:
        return base, base
    return base, number(config, "local_rope_theta", LOCAL_BASE)


def _pattern(config: Config, num_layers: int) -> int | list[bool]:
    if config.get("layer_types") is None:
        return whole(config, "global_attn_every_n_layers", PERIOD)
    return sliding_layers(config, num_layers, 0)
