"""starcoder2: StarCoder2: norms with mean and bias, biases everywhere, a feed-forward network without gate."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export import rope
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import Activation, ModelSpec, Norm
from hearth_export.translation import (
    LAYER_NAMES,
    MODEL_NAMES,
    Config,
    Source,
    Translation,
    decoder_metadata,
    drop_tied_head,
    number,
    only,
    renamed,
)

PREFIX = "starcoder2"
NAMES = LAYER_NAMES | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
EVERY_LAYER = 0


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a starcoder2 checkpoint. GGUF files do not tell of a window, and llama.cpp goes without."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.layer_epsilon(),
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=read_windows(facts, sizes["num_layers"], EVERY_LAYER),
        norm=Norm.LAYER,
        activation=Activation.GELU_TANH,
        gated=False,
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A StarCoder2 checkpoint of Hugging Face in GGUF's words."""
    only(config, "hidden_act", "gelu_pytorch_tanh")
    only(config, "norm_type", "layer_norm")
    only(config, "mlp_type", "default")
    metadata = decoder_metadata(PREFIX, config)
    num_layers, head_dim = metadata[f"{PREFIX}.block_count"], metadata[f"{PREFIX}.attention.key_length"]
    metadata[f"{PREFIX}.attention.layer_norm_epsilon"] = number(config, "norm_epsilon", 1e-5)
    metadata |= translate_windows(PREFIX, config, num_layers, EVERY_LAYER)
    words = translate_rope(PREFIX, config, head_dim)
    tensors = renamed(num_layers, names, NAMES)
    bias = MODEL_NAMES["output_norm.weight"].replace("weight", "bias")
    if bias in names:
        tensors["output_norm.bias"] = (Source(bias),)
    ignored = drop_tied_head(config, tensors, tied=True)
    return Translation(PREFIX, metadata | words.metadata, tensors, ignored=ignored, vectors=words.vectors)
