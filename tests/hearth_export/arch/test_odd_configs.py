"""A value in config.json that makes no sense is refused by one sentence, whatever key has it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import ExportError
from hearth_export.readers.huggingface import open_huggingface
from hearth_export.spec import read_spec

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "vocab_size": 320,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0}
YARN |= {"mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1, "truncate": True, "attention_factor": 1.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
WINDOW = {"sliding_window": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": LLAMA3, "hidden_act": "silu"},
    "mistral": WINDOW,
    "mixtral": {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {**WINDOW, "rope_scaling": YARN, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {**WINDOW, "use_sliding_window": True},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
    "gpt_oss": {**WINDOW, "rope_scaling": YARN, "num_local_experts": 4, "num_experts_per_tok": 2, "swiglu_limit": 7.0},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": {**WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {**WINDOW, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2, "rope_local_base_freq": 1e4},
    "phi3": {**WINDOW, "rope_scaling": LONGROPE, "original_max_position_embeddings": 64},
    "granite": {"rope_scaling": YARN, "attention_multiplier": 0.1, "logits_scaling": 8.0, "embedding_multiplier": 2.0},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {**WINDOW, "rope_scaling": LLAMA3, "no_rope_layers": [1, 1, 1, 0], "use_sliding_window": True},
    "olmo2": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "olmo3": {**WINDOW, "rope_scaling": YARN},
    "starcoder2": {**WINDOW, "norm_epsilon": 1e-5},
}
# The embedding is all that a spec looks at; a translation of experts looks at them.
SHAPES: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (320, 64)}
EXPERT_SHAPES: dict[str, tuple[int, ...]] = {
    f"model.layers.{layer}.block_sparse_moe.{name}.weight": shape
    for layer in range(4)
    for name, shape in (("input_linear", (4, 256, 64)), ("output_linear", (4, 64, 128)))
}
SINGLE_EXPERT_SHAPES: dict[str, tuple[int, ...]] = {
    f"model.layers.{layer}.{place}.weight": (4, 64) if place.endswith(".gate") else (64, 64)
    for layer in range(4)
    for block, names in (("block_sparse_moe", ("w1", "w2", "w3")), ("mlp", ("gate_proj", "up_proj", "down_proj")))
    for place in (f"{block}.gate", *(f"{block}.experts.{expert}.{name}" for expert in range(4) for name in names))
}
GPT_OSS_SHAPES: dict[str, tuple[int, ...]] = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(4)
    for name, shape in (
        ("self_attn.sinks", (4,)),
        ("mlp.experts.gate_up_proj", (4, 64, 256)),
        ("mlp.experts.gate_up_proj_bias", (4, 256)),
        ("mlp.experts.down_proj", (4, 128, 64)),
        ("mlp.experts.down_proj_bias", (4, 64)),
    )
}
MORE_SHAPES = {
    "granitemoe": EXPERT_SHAPES,
    "mixtral": {name: shape for name, shape in SINGLE_EXPERT_SHAPES.items() if "sparse" in name},
    "qwen3_moe": {name: shape for name, shape in SINGLE_EXPERT_SHAPES.items() if "mlp" in name},
    "gpt_oss": GPT_OSS_SHAPES,
}
ODD: list[Any] = [
    None,
    -1,
    0,
    1,
    1.5,
    "x",
    True,
    [],
    [0],
    {},
    {"rope_type": {}},
    1e300,
    -1e300,
    1 << 30,
    1 << 40,
    float("nan"),
]


def write_zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of F32."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))


def variations(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The config with each value in turn replaced by odd ones, inside of its blocks too."""
    found = [{**config, key: odd} for key in config for odd in ODD if key != "model_type"]
    for key, block in config.items():
        if isinstance(block, dict):
            found += [{**config, key: inner} for inner in variations(block)]
    return found


@pytest.mark.parametrize("model_type", CONFIGS)
def test_odd_value_never_leaves_a_traceback(model_type: str, tmp_path: Path) -> None:
    config = {"model_type": model_type, **SIZES, **CONFIGS[model_type]}
    write_zeros(tmp_path / "model.safetensors", SHAPES | MORE_SHAPES.get(model_type, {}))
    assert refusal(tmp_path, config) == ""
    refusals = [refusal(tmp_path, variation) for variation in variations(config)]
    assert sum(map(bool, refusals)) > 100
    assert not any("\n" in sentence for sentence in refusals)


def refusal(directory: Path, config: dict[str, Any]) -> str:
    """The sentence by which a checkpoint with this config is refused; "" where it is not."""
    (directory / "config.json").write_text(json.dumps(config))
    try:
        with open_huggingface(directory) as checkpoint:
            read_spec(checkpoint)
    except ExportError as error:
        return str(error)
    return ""
