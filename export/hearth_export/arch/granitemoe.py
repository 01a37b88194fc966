"""granitemoe: Granite 3 with a mixture of experts in every layer."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export.arch.facts import MAX_WIDTH, Facts
from hearth_export.arch.granite import granite_spec, granite_words
from hearth_export.checkpoint import Checkpoint
from hearth_export.spec import Experts, ModelSpec
from hearth_export.translation import LAYER_NAMES, Config, Source, Translation, drop_tied_head, only, renamed, whole

PREFIX = "granitemoe"
MAX_EXPERTS = 1024
ROUTER = {"ffn_gate_inp": "block_sparse_moe.router.layer"}
FUSED, DOWN = "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a granitemoe checkpoint; one with experts that every token passes is refused."""
    facts = Facts(checkpoint, PREFIX)
    facts.require_usual("expert_shared_feed_forward_length", 0)
    num = facts.count("expert_count", MAX_EXPERTS)
    experts = Experts(
        num=num,
        num_used=facts.count("expert_used_count", num),
        ffn_size=facts.count("feed_forward_length", MAX_WIDTH),
    )
    return granite_spec(facts, experts=experts)


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Granite checkpoint with experts, of Hugging Face, in GGUF's words."""
    only(config, "shared_intermediate_size", 0, None)
    metadata, vectors = granite_words(PREFIX, config)
    num, num_layers = whole(config, "num_local_experts"), metadata[f"{PREFIX}.block_count"]
    metadata[f"{PREFIX}.expert_count"] = num
    metadata[f"{PREFIX}.expert_used_count"] = whole(config, "num_experts_per_tok")
    tensors = renamed(num_layers, names, LAYER_NAMES | ROUTER)
    experts = _experts(
        num_layers, num, metadata[f"{PREFIX}.feed_forward_length"], metadata[f"{PREFIX}.embedding_length"]
    )
    ignored = drop_tied_head(config, tensors, tied=False)
    return Translation(PREFIX, metadata, tensors | experts, frozenset(experts), ignored, vectors)


def _experts(num_layers: int, num: int, ffn_size: int, hidden_size: int) -> dict[str, tuple[Source, ...]]:
    """Each layer's experts: stored are gate and up one after the other, (num, 2 ffn_size, hidden_size)."""
    tensors: dict[str, tuple[Source, ...]] = {}
    for layer in range(num_layers):
        fused, down = (f"model.layers.{layer}.{name}" for name in (FUSED, DOWN))
        starts = [2 * ffn_size * expert for expert in range(num)]
        gate = tuple(Source(fused, start, start + ffn_size) for start in starts)
        up = tuple(Source(fused, start + ffn_size, start + 2 * ffn_size) for start in starts)
        downs = tuple(Source(down, hidden_size * expert, hidden_size * (expert + 1)) for expert in range(num))
        tensors |= {
            f"blk.{layer}.ffn_gate_exps.weight": gate,
            f"blk.{layer}.ffn_up_exps.weight": up,
            f"blk.{layer}.ffn_down_exps.weight": downs,
        }
    return tensors
