"""How a Hugging Face checkpoint is said in GGUF's words: its config as metadata keys, its tensors under GGUF names.

Stored bytes stay what they are: a translation names the rows that a tensor is made of, and the few changes that an
architecture's conversion to GGUF makes to values.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hearth_export.errors import BadCheckpoint, UnknownModelType, UnsupportedModel

# model_type of config.json -> the module whose translate(config, names) says it in GGUF's words
MODEL_TYPES = {
    "bert": "hearth_export.arch.bert",
    "camembert": "hearth_export.arch.bert",
    "distilbert": "hearth_export.arch.bert",
    "gemma": "hearth_export.arch.gemma",
    "gemma2": "hearth_export.arch.gemma2",
    "gemma3": "hearth_export.arch.gemma3",
    "gemma3_text": "hearth_export.arch.gemma3",
    "gpt_oss": "hearth_export.arch.gpt_oss",
    "granite": "hearth_export.arch.granite",
    "granitemoe": "hearth_export.arch.granitemoe",
    "llama": "hearth_export.arch.llama",
    "mistral": "hearth_export.arch.mistral",
    "mixtral": "hearth_export.arch.mixtral",
    "modernbert": "hearth_export.arch.modernbert",
    "nomic_bert": "hearth_export.arch.nomic_bert",
    "olmo2": "hearth_export.arch.olmo2",
    "olmo3": "hearth_export.arch.olmo2",
    "phi3": "hearth_export.arch.phi3",
    "qwen2": "hearth_export.arch.qwen2",
    "qwen3": "hearth_export.arch.qwen3",
    "qwen3_moe": "hearth_export.arch.qwen3moe",
    "roberta": "hearth_export.arch.bert",
    "smollm3": "hearth_export.arch.smollm3",
    "starcoder2": "hearth_export.arch.starcoder2",
    "xlm-roberta": "hearth_export.arch.bert",
}

Config = Mapping[str, Any]  # config.json
OTHERWISE = "the Optimum route (the extra `export`) may know it"
MAX_WHOLE = 1 << 31
# What a translation counts up to: names of tensors, frequencies.
MAX_LAYERS = MAX_EXPERTS = 1024
MAX_WIDTH = 1 << 20
MOST = {
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer"), MAX_LAYERS),
    **dict.fromkeys(("num_local_experts", "num_experts"), MAX_EXPERTS),
    **dict.fromkeys(("hidden_size", "head_dim", "dim", "n_embd"), MAX_WIDTH),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of a stored tensor, all of them where `stop` is None. Rows of three dimensions count through all matrices;
    of a vector, or with `flat`, single values count."""

    name: str  # "model.layers.0.self_attn.q_proj.weight"
    start: int = 0
    stop: int | None = None
    step: int = 1
    added: float = 0.0  # to every value of a vector: Gemma's norms multiply by 1 + weight
    flat: bool = False
    transposed: bool = False  # the stored matrices hold rows as columns; start, stop, step count rows after turning
    scales: str = ""  # of MXFP4: the tensor of a byte a block; the one named by `name` has 16 bytes a block


@dataclass(frozen=True, slots=True)
class Translation:
    """A checkpoint in GGUF's words."""

    architecture: str  # general.architecture
    metadata: dict[str, str | int | float | bool | list[int] | list[float] | list[bool]]  # but for the tokenizer's keys
    tensors: dict[str, tuple[Source, ...]]  # GGUF name -> its rows, one source after the other
    stacked: frozenset[str] = frozenset()  # tensors with a dimension more, along which each source is one entry
    ignored: frozenset[str] = frozenset()  # stored tensors that the model does not compute with
    vectors: dict[str, list[float]] = field(default_factory=dict)  # F32 tensors that conversion computes: rope_freqs


def translate(config: Config, names: Collection[str]) -> Translation:
    """The translation of a checkpoint that stores tensors of these names. UnsupportedModel names an unknown type."""
    model_type = str(config.get("model_type"))[:64]
    module = MODEL_TYPES.get(model_type)
    if module is None:
        known = ", ".join(sorted(MODEL_TYPES))
        raise UnknownModelType(
            f"config.json: model_type is '{model_type}', which the builder does not know (known: {known}); {OTHERWISE}"
        )
    refuse_quantized(config)
    translation: Translation = importlib.import_module(module).translate(config, names)
    return translation


def refuse_quantized(config: Config) -> None:
    """UnsupportedModel names the method of a checkpoint whose weights are integers already; MXFP4 can be read."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return
    method = str(quantization.get("quant_method"))[:64]
    if method != "mxfp4":
        raise UnsupportedModel(
            f"config.json: the weights are quantized already (quant_method '{method}'), which cannot be converted: "
            "take the original checkpoint, or a GGUF file of the model"
        )


def decoder_metadata(architecture: str, config: Config) -> dict[str, Any]:
    """The keys that every decoder has: sizes, heads, context; no norm's epsilon, and nothing of rotary embedding."""
    hidden_size, num_heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    head_dim = whole(config, "head_dim", hidden_size // num_heads)
    metadata = {
        "block_count": whole(config, "num_hidden_layers"),
        "context_length": whole(config, "max_position_embeddings"),
        "embedding_length": hidden_size,
        "feed_forward_length": whole(config, "intermediate_size"),
        "attention.head_count": num_heads,
        "attention.head_count_kv": whole(config, "num_key_value_heads", num_heads),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": whole(config, "vocab_size"),
    }
    return {f"{architecture}.{key}": value for key, value in metadata.items()}


def whole(config: Config, key: str, default: int | None = None, least: int = 1) -> int:
    """A whole number of config.json, positive unless `least` is 0; `default` where it is absent or null.

    Raises BadCheckpoint naming key and value.
    """
    value = config.get(key)
    value = default if value is None else value
    most = MOST.get(key, MAX_WHOLE)
    if type(value) is not int or not least <= value <= most:
        raise _unexpected(key, value, "a positive whole number" + (f" up to {most}" if key in MOST else ""))
    return value


def number(config: Config, key: str, default: float | None = None) -> float:
    """A finite number of config.json, as `whole`."""
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _unexpected(key, value, "a number")
    return float(value)


def flag(config: Config, key: str, default: bool = False) -> bool:
    """true or false of config.json, as `whole`."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise _unexpected(key, value, "true or false")
    return value


def text(config: Config, key: str, default: str | None = None) -> str:
    """A string of config.json, as `whole`."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, str):
        raise _unexpected(key, value, "a string")
    return value


def only(config: Config, key: str, *known: object) -> None:
    """UnsupportedModel where the key has another value than one of `known`, the first of which is the default."""
    value = config.get(key, known[0])
    if value not in known:
        wanted = " or ".join(json.dumps(item) for item in known)
        raise UnsupportedModel(f"config.json: {key} is {_shown(value)}; only {wanted} can be converted")


def _unexpected(key: str, value: object, kind: str) -> BadCheckpoint:
    if value is None:
        return BadCheckpoint(f"config.json: {key} is missing")
    return BadCheckpoint(f"config.json: {key} is {_shown(value)} where {kind} is expected")


def _shown(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 64 else f"{shown[:64]}..."


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
    """The tensors among `names` that only change their names: weights and biases of layers, and those of the model.

    A checkpoint saved without its head has no "model." before its names.
    """
    pairs = dict(MODEL_NAMES)
    for layer in range(num_layers):
        for ours, theirs in layer_names.items():
            for kind in ("weight", "bias"):
                pairs[f"blk.{layer}.{ours}.{kind}"] = f"{prefix}.{layer}.{theirs}.{kind}"
    if MODEL_NAMES["token_embd.weight"] not in names:
        pairs |= {ours: theirs.removeprefix("model.") for ours, theirs in pairs.items()}
    return {ours: (Source(theirs),) for ours, theirs in pairs.items() if theirs in names}


def drop_tied_head(config: Config, tensors: dict[str, tuple[Source, ...]], tied: bool) -> frozenset[str]:
    """Takes a head out of `tensors` that `tie_word_embeddings` (`tied` where it is absent) says to be the embedding;
    the stored tensors that are ignored for it. BadCheckpoint where there is neither that nor a head; a checkpoint
    saved without one, for embeddings, needs none."""
    if flag(config, "tie_word_embeddings", tied):
        tensors.pop("output.weight", None)
        return frozenset({"lm_head.weight"})
    headless = tensors.get("token_embd.weight") == (Source("embed_tokens.weight"),)
    if "output.weight" not in tensors and not headless:
        raise BadCheckpoint("tensor lm_head.weight is missing, and tie_word_embeddings does not say that it may be")
    return frozenset()
