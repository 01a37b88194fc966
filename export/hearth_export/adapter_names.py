"""Which tensor of a checkpoint a PEFT adapter's tensor belongs to, told by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hearth_export.errors import UnsupportedModel

# modules of a decoder layer -> their GGUF names
MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
EXPERT_MODULES = {
    "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}  # fmt: skip

_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_LAYER = re.compile(r"(?:(?:model|language_model)\.)*layers\.(?P<layer>\d{1,4})\.(?P<rest>.+)")
_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(?P<expert>\d{1,4})\.(?P<matrix>\w+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a half of a pair belongs."""

    module: str  # "model.layers.0.self_attn.q_proj"
    half: str  # "A" or "B"
    tensor: str  # "blk.0.attn_q.weight"
    expert: int | None = None


def place_of(name: str) -> Place:
    """The place of a tensor. Raises UnsupportedModel naming it where it has none that can be merged."""
    found = _NAME.fullmatch(name)
    if found is None:
        if "lora_embedding" in name or "embed_tokens" in name:
            raise UnsupportedModel(
                f"tensor {name[:160]} changes the embedding, which cannot be merged: train the adapter without it"
            )
        raise UnsupportedModel(f"tensor {name[:160]} is neither lora_A nor lora_B of a matrix")
    module, half = found["module"], found["half"]
    if module == "lm_head":
        return Place(module, half, "output.weight")
    layer = _LAYER.fullmatch(module)
    if layer is None:
        raise _unknown(name)
    expert = _EXPERT.fullmatch(layer["rest"])
    if expert is not None:
        tensor, index = EXPERT_MODULES.get(expert["matrix"]), int(expert["expert"])
    else:
        tensor, index = MODULES.get(layer["rest"]), None
    if tensor is None:
        raise _unknown(name)
    return Place(module, half, f"blk.{int(layer['layer'])}.{tensor}.weight", index)


def _unknown(name: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"tensor {name[:160]} belongs to no matrix that is known: merge the adapter with PEFT (merge_and_unload) "
        "and create the model from the result"
    )
