"""nomic-bert: nomic-embed-text: BERT with rotary positions and a gated network, biases left out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hearth_export import rope
from hearth_export.arch.encoders import encoder_metadata, encoder_sizes, encoder_tensors, without
from hearth_export.arch.facts import Facts
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import FULL, plain_base
from hearth_export.spec import EncoderSpec
from hearth_export.translation import Config, Translation, number, only, whole

PREFIX = "nomic-bert"
MODEL_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "emb_ln",
}
LAYER_NAMES = {
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "attn_output_norm": "norm1",
    "ffn_up": "mlp.fc11",
    "ffn_gate": "mlp.fc12",
    "ffn_down": "mlp.fc2",
    "layer_output_norm": "norm2",
}
FIRST_KEYS = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_attention_heads": "n_head",
    "hidden_act": "activation_function",
}
BASE = 1000.0
TRAINED = 2048  # tokens of nomic-embed-text v1 and v1.5; beyond them frequencies would have to be scaled


def read_spec(checkpoint: Checkpoint) -> EncoderSpec:
    """The EncoderSpec of a nomic-bert checkpoint."""
    sizes = encoder_sizes(Facts(checkpoint, PREFIX), "swiglu")
    return EncoderSpec(
        architecture=PREFIX,
        **sizes,
        gated=True,
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A NomicBert checkpoint of Hugging Face in GGUF's words: those of its first authors, or of transformers 5."""
    if "n_embd" in config:
        metadata = _first_metadata(config)
    else:
        metadata = encoder_metadata(PREFIX, config, {}, whole(config, "max_position_embeddings", TRAINED))
        metadata[f"{PREFIX}.attention.layer_norm_epsilon"] = number(config, "layer_norm_eps", 1e-12)
        metadata[f"{PREFIX}.rope.freq_base"] = plain_base(config, FULL, BASE)
    tensors = encoder_tensors(
        metadata[f"{PREFIX}.block_count"], names, MODEL_NAMES, LAYER_NAMES, "encoder.layers", ("bert.",)
    )
    return Translation(PREFIX, metadata, tensors, ignored=without(names, "pooler.", "cls.", "bert.pooler."))


def _first_metadata(config: Config) -> dict[str, Any]:
    only(config, "prenorm", False)
    only(config, "rotary_emb_fraction", 1.0, 1)
    only(config, "rotary_emb_interleaved", False)
    only(config, "rotary_emb_scale_base", None)
    only(config, "activation_function", "swiglu", "geglu")
    only(config, "moe_every_n_layers", 0, None)
    trained = min(whole(config, "n_positions", TRAINED), whole(config, "max_trained_positions", TRAINED))
    metadata = encoder_metadata(PREFIX, config, FIRST_KEYS, trained)
    metadata[f"{PREFIX}.attention.layer_norm_epsilon"] = number(config, "layer_norm_epsilon", 1e-12)
    metadata[f"{PREFIX}.rope.freq_base"] = number(config, "rotary_emb_base", BASE)
    return metadata
