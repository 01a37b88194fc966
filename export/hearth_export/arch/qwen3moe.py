"""qwen3moe: Qwen 3 with a mixture of experts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hearth_export import rope
from hearth_export.arch import qwen2, qwen3
from hearth_export.arch.experts import dense_layers, expert_metadata, expert_tensors, read_experts
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint
from hearth_export.spec import ModelSpec, QKNorm
from hearth_export.translation import Config, Translation, flag, whole

PREFIX = "qwen3moe"
MATRICES = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a qwen3moe checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    facts.require_usual("rope.dimension_count", sizes["head_dim"])
    experts = read_experts(facts, sizes["ffn_size"])
    if experts is None:
        raise BadCheckpoint(f"{checkpoint.path}: {PREFIX}.expert_count is missing or 0")
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        qk_norm=QKNorm.HEAD,
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=read_windows(facts, sizes["num_layers"], 1),
        experts=experts,
        dense_layers=dense_layers(facts, sizes["num_layers"]),
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Qwen3-MoE checkpoint of Hugging Face in GGUF's words; dense layers have no router among `names`."""
    windows = {"max_window_layers": None, "layer_types": None}  # transformers gives every layer the window, or none
    base = qwen2.translation_as(PREFIX, {**config, **windows}, names, qwen3.NAMES)
    num_layers, num_experts = whole(config, "num_hidden_layers"), whole(config, "num_experts", 128)
    experts = expert_tensors(num_layers, num_experts, names, "mlp", "gate", MATRICES)
    metadata = expert_metadata(
        PREFIX,
        num_experts,
        whole(config, "num_experts_per_tok", 8),
        whole(config, "moe_intermediate_size", 768),
        flag(config, "norm_topk_prob", False),
    )
    return replace(
        base,
        metadata=base.metadata | metadata,
        tensors=base.tensors | experts,
        stacked=frozenset(name for name in experts if "_exps." in name),
    )
