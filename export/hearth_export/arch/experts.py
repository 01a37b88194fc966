"""Mixtures of experts: their sizes, and where Hugging Face checkpoints store each expert's matrices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hearth_export.arch.facts import MAX_WIDTH, Facts
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.spec import Experts
from hearth_export.translation import Source

MAX_EXPERTS = 1024
NORMALISED = "expert_weights_norm"


def read_experts(facts: Facts, ffn_size: int) -> Experts | None:
    """The experts of a checkpoint, each `ffn_size` wide unless it says otherwise; None where there are none."""
    num = facts.count("expert_count", MAX_EXPERTS, 0, least=0)
    if not num:
        return None
    num_used = facts.count("expert_used_count", num)
    if facts.number("expert_weights_scale", 0, 1e9, 1.0) not in (0.0, 1.0):
        raise UnsupportedModel(f"{facts.checkpoint.path}: {facts.prefix}.expert_weights_scale is neither 0 nor 1")
    ffn_size = facts.count("expert_feed_forward_length", MAX_WIDTH, ffn_size)
    return Experts(num, num_used, ffn_size, normalised=facts.flag(NORMALISED, True))


def dense_layers(facts: Facts, num_layers: int) -> frozenset[int]:
    """The layers that have no router, and so no experts."""
    names = facts.checkpoint.tensors
    return frozenset(layer for layer in range(num_layers) if f"blk.{layer}.ffn_gate_inp.weight" not in names)


def expert_tensors(
    num_layers: int, num_experts: int, names: Collection[str], block: str, router: str, matrices: Mapping[str, str]
) -> dict[str, tuple[Source, ...]]:
    """The router and the stacks of experts' matrices of each layer that has a router.

    `block` is where they lie in a layer ("block_sparse_moe"), `matrices` what a "gate", "up" and "down" is called.
    BadCheckpoint where an expert has none.
    """
    tensors: dict[str, tuple[Source, ...]] = {}
    for layer in range(num_layers):
        place = f"model.layers.{layer}.{block}"
        if f"{place}.{router}.weight" not in names:
            continue
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = (Source(f"{place}.{router}.weight"),)
        for ours, theirs in matrices.items():
            stored = [f"{place}.experts.{expert}.{theirs}.weight" for expert in range(num_experts)]
            missing = next((name for name in stored if name not in names), None)
            if missing is not None:
                raise BadCheckpoint(f"tensor {missing} is missing")
            tensors[f"blk.{layer}.ffn_{ours}_exps.weight"] = tuple(Source(name) for name in stored)
    return tensors


def expert_metadata(architecture: str, num: int, num_used: int, ffn_size: int, normalised: bool) -> dict[str, Any]:
    """The keys of experts."""
    return {
        f"{architecture}.expert_count": num,
        f"{architecture}.expert_used_count": num_used,
        f"{architecture}.expert_feed_forward_length": ffn_size,
        f"{architecture}.{NORMALISED}": normalised,
    }
