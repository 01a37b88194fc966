"""What encoders' metadata and configs have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypedDict

from hearth_export.arch.facts import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, Facts
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import Activation, Pooling
from hearth_export.translation import Config, Source, text, whole

HEAD_STEP = 8  # of the attention kernel's rotary embedding
ACTIVATION_KEY = "hidden_activation"
# config.json's names of activations
ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swiglu": Activation.SILU,
    "geglu": Activation.GELU,
}


class Sizes(TypedDict):
    """What all encoders have, as EncoderSpec calls it."""

    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    pooling: Pooling
    activation: Activation


def encoder_sizes(facts: Facts, activation: str) -> Sizes:
    """The facts of an encoder whose activation is `activation` where the checkpoint names none.

    Texts become the mean of their tokens' states where the checkpoint does not say otherwise.
    """
    hidden_size = facts.count("embedding_length", MAX_WIDTH)
    num_heads = facts.count("attention.head_count", MAX_WIDTH)
    facts.require_usual("attention.head_count_kv", num_heads)
    if hidden_size % num_heads or hidden_size // num_heads % HEAD_STEP:
        raise BadCheckpoint(
            f"{facts.checkpoint.path}: {facts.prefix}.attention.head_count is {num_heads}, which does not divide "
            f"{facts.prefix}.embedding_length {hidden_size} into heads of a multiple of {HEAD_STEP} values"
        )
    return Sizes(
        num_layers=facts.count("block_count", MAX_LAYERS),
        hidden_size=hidden_size,
        ffn_size=facts.count("feed_forward_length", MAX_WIDTH),
        num_heads=num_heads,
        head_dim=hidden_size // num_heads,
        vocab_size=facts.checkpoint.tensor("token_embd.weight").shape[0],
        context_length=facts.count("context_length", MAX_CONTEXT),
        norm_epsilon=facts.layer_epsilon(),
        pooling=facts.pooling() or Pooling.MEAN,
        activation=_activation(facts, activation),
    )


def _activation(facts: Facts, default: str) -> Activation:
    key = f"{facts.prefix}.{ACTIVATION_KEY}"
    name = facts.checkpoint.get(key, str, default)
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModel(f"{facts.checkpoint.path}: {key} is '{name[:64]}' (known: {known})")
    return ACTIVATIONS[name]


def encoder_metadata(architecture: str, config: Config, keys: Mapping[str, str], context_length: int) -> dict[str, Any]:
    """The keys that every encoder has; `keys` has the config's names of sizes where they are not the usual ones."""

    def size(key: str) -> int:
        return whole(config, keys.get(key, key))

    activation = keys.get("hidden_act", "hidden_act")
    metadata = {
        "block_count": size("num_hidden_layers"),
        "context_length": context_length,
        "embedding_length": size("hidden_size"),
        "feed_forward_length": size("intermediate_size"),
        "attention.head_count": size("num_attention_heads"),
        "attention.causal": False,
        ACTIVATION_KEY: text(config, activation, "gelu"),
    }
    return {f"{architecture}.{key}": value for key, value in metadata.items()}


def encoder_tensors(
    num_layers: int,
    names: Collection[str],
    model_names: Mapping[str, str],
    layer_names: Mapping[str, str],
    layer_prefix: str,
    prefixes: tuple[str, ...],
) -> dict[str, tuple[Source, ...]]:
    """The weights and biases among `names`, by their GGUF names; `prefixes` may stand before all stored names.

    Norms of old checkpoints have a gamma and a beta.
    """
    pairs = dict(model_names)
    for layer in range(num_layers):
        pairs |= {f"blk.{layer}.{ours}": f"{layer_prefix}.{layer}.{theirs}" for ours, theirs in layer_names.items()}
    kinds = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
    found: dict[str, tuple[Source, ...]] = {}
    for ours, theirs in pairs.items():
        for kind, spellings in kinds.items():
            stored = [f"{prefix}{theirs}.{spelling}" for prefix in ("", *prefixes) for spelling in spellings]
            found |= {f"{ours}.{kind}": (Source(name),) for name in stored if name in names}
    return found


def without(names: Collection[str], *beginnings: str) -> frozenset[str]:
    """Stored tensors of heads that make no vectors: those that begin so."""
    return frozenset(name for name in names if name.startswith(beginnings))
