"""How a Hugging Face checkpoint is said in GGUF's words: its config as metadata keys, its tensors under GGUF names.

Stored bytes stay what they are: a translation names the rows that a tensor is made of, and the few changes that an
architecture's conversion to GGUF makes to values.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hearth_export.errors import UnsupportedModel

# model_type of config.json -> the module whose translate(config, names) says it in GGUF's words
MODEL_TYPES = {"llama": "hearth_export.arch.llama"}

Config = Mapping[str, Any]  # config.json


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of a stored tensor, all of them where `stop` is None."""

    name: str  # "model.layers.0.self_attn.q_proj.weight"
    start: int = 0
    stop: int | None = None
    step: int = 1
    added: float = 0.0  # to every value of a vector: Gemma's norms multiply by 1 + weight


@dataclass(frozen=True, slots=True)
class Translation:
    """A checkpoint in GGUF's words."""

    architecture: str  # general.architecture
    metadata: dict[str, str | int | float | bool | list[int] | list[float]]  # every other key but the tokenizer's
    tensors: dict[str, tuple[Source, ...]]  # GGUF name -> its rows, one source after the other
    stacked: frozenset[str] = frozenset()  # tensors of three dimensions: each source is an expert's matrix
    ignored: frozenset[str] = field(default_factory=frozenset)  # stored tensors that the model does not compute with


def translate(config: Config, names: Collection[str]) -> Translation:
    """The translation of a checkpoint that stores tensors of these names. UnsupportedModel names an unknown type."""
    model_type = str(config.get("model_type"))
    module = MODEL_TYPES.get(model_type)
    if module is None:
        known = ", ".join(sorted(MODEL_TYPES))
        raise UnsupportedModel(f"config.json: model_type is '{model_type}', which the builder does not know ({known})")
    translation: Translation = importlib.import_module(module).translate(config, names)
    return translation


# what most decoders call their tensors: GGUF name -> Hugging Face name
MODEL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def renamed(
    num_layers: int, names: Collection[str], layer_names: Mapping[str, str] = LAYER_NAMES, prefix: str = "model.layers"
) -> dict[str, tuple[Source, ...]]:
    """The tensors among `names` that only change their names: weights and biases of layers, and those of the model."""
    pairs = dict(MODEL_NAMES)
    for layer in range(num_layers):
        for ours, theirs in layer_names.items():
            for kind in ("weight", "bias"):
                pairs[f"blk.{layer}.{ours}.{kind}"] = f"{prefix}.{layer}.{theirs}.{kind}"
    return {ours: (Source(theirs),) for ours, theirs in pairs.items() if theirs in names}
