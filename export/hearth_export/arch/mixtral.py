"""mixtral: Mistral's mixture of experts, which llama.cpp files under llama."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hearth_export.arch import llama, mistral
from hearth_export.arch.experts import expert_metadata, expert_tensors
from hearth_export.translation import Config, Translation, whole

MATRICES = {"gate": "w1", "up": "w3", "down": "w2"}


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Mixtral checkpoint of Hugging Face in GGUF's words."""
    num_experts = whole(config, "num_local_experts", 8)
    num_used = whole(config, "num_experts_per_tok", 2)
    base = llama.translate({"rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, **config}, names)
    num_layers = whole(config, "num_hidden_layers")
    experts = expert_tensors(num_layers, num_experts, names, "block_sparse_moe", "gate", MATRICES)
    metadata = expert_metadata(llama.PREFIX, num_experts, num_used, whole(config, "intermediate_size"), True)
    return replace(
        base,
        metadata=base.metadata | mistral.windows(config) | metadata,
        tensors=base.tensors | experts,
        stacked=frozenset(name for name in experts if "_exps." in name),
    )
