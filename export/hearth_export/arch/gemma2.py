"""gemma2: norms on both sides of attention and feed-forward, soft caps, a window in every other layer."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import Facts, Sizes
from hearth_export.arch.gemma import TANH, gemma_metadata, shifted
from hearth_export.arch.windows import read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import Activation, ModelSpec
from hearth_export.translation import (
    LAYER_NAMES,
    Config,
    Translation,
    drop_tied_head,
    number,
    only,
    renamed,
)

PREFIX = "gemma2"
NAMES = LAYER_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
PERIOD = 2
WINDOW = 4096
ATTENTION_CAP, LOGIT_CAP = 50.0, 30.0
MAX_CAP = 1e6
LAYERS_OF_27B = 46
DEFAULTS: dict[str, Any] = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": WINDOW,
    "attn_logit_softcapping": ATTENTION_CAP,
    "final_logit_softcapping": LOGIT_CAP,
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a gemma2 checkpoint. What the file does not say is as llama.cpp takes it."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=read_windows(facts, sizes["num_layers"], PERIOD, WINDOW),
        post_norms=True,
        attention_scale=read_attention_scale(facts, sizes, LAYERS_OF_27B),
        attention_softcap=facts.number("attn_logit_softcapping", 0, MAX_CAP, ATTENTION_CAP),
        logit_softcap=facts.number("final_logit_softcapping", 0, MAX_CAP, LOGIT_CAP),
        embedding_scale=sizes["hidden_size"] ** 0.5,
        activation=Activation.GELU_TANH,
    )


def read_attention_scale(facts: Facts, sizes: Sizes, layers_of_27b: int) -> float:
    """`attention.scale`, which conversion to GGUF leaves out: 0 stands for the usual, which the 27B models have not."""
    scale = facts.number("attention.scale", 0, 1e3, 0.0)
    if not scale and sizes["num_layers"] == layers_of_27b:
        return 1 / math.sqrt(sizes["hidden_size"] // sizes["num_heads"])
    return scale


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Gemma 2 checkpoint of Hugging Face in GGUF's words."""
    only(config, "hidden_activation", TANH)
    config = {**DEFAULTS, **config}
    metadata = gemma_metadata(PREFIX, config)
    num_layers, head_dim = metadata[f"{PREFIX}.block_count"], metadata[f"{PREFIX}.attention.key_length"]
    metadata[f"{PREFIX}.attention.scale"] = translate_attention_scale(config)
    metadata |= {f"{PREFIX}.{key}": number(config, key, 0.0) for key in DEFAULTS if key.endswith("softcapping")}
    metadata |= translate_windows(PREFIX, config, num_layers, PERIOD) or {f"{PREFIX}.attention.sliding_window": 0}
    words = translate_rope(PREFIX, config, head_dim)
    tensors = renamed(num_layers, names, NAMES)
    ignored = drop_tied_head(config, tensors, tied=True)
    return Translation(PREFIX, metadata | words.metadata, shifted(tensors), ignored=ignored, vectors=words.vectors)


def translate_attention_scale(config: Config) -> float:
    """What multiplies q k."""
    scalar = number(config, "query_pre_attn_scalar", 256.0)
    if not 1e-6 <= scalar <= 1e6:
        raise BadCheckpoint(f"config.json: query_pre_attn_scalar is {scalar:g}, outside 1e-06..1e+06")
    return 1 / math.sqrt(scalar)
