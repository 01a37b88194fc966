"""gpt-oss: OpenAI's mixture of experts with attention sinks and a window in every other layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hearth_export import rope
from hearth_export.arch.experts import expert_metadata, read_experts
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint
from hearth_export.rope_config import translate_rope
from hearth_export.spec import ModelSpec
from hearth_export.translation import (
    LAYER_NAMES,
    Config,
    Source,
    Translation,
    decoder_metadata,
    drop_tied_head,
    number,
    only,
    renamed,
    whole,
)

PREFIX = "gpt-oss"
WINDOW_PERIOD = 2
SWIGLU_LIMIT, SWIGLU_ALPHA, SWIGLU_BETA = 7.0, 1.702, 1.0  # in no file: constants of every implementation
POST_NORM = "post_attention_norm"
NAMES = {ours: theirs for ours, theirs in LAYER_NAMES.items() if not ours.startswith("ffn_")} | {
    POST_NORM: "post_attention_layernorm",
    "ffn_gate_inp": "mlp.router",
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a gpt-oss checkpoint."""
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
        ffn_norm=POST_NORM,
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=read_windows(facts, sizes["num_layers"], WINDOW_PERIOD),
        experts=replace(
            experts, swiglu_limit=SWIGLU_LIMIT, swiglu_alpha=SWIGLU_ALPHA, swiglu_beta=SWIGLU_BETA, normalised=True
        ),
        sinks=True,
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A gpt-oss checkpoint of Hugging Face in GGUF's words, its experts in MXFP4 or floats."""
    only(config, "hidden_act", "silu")
    only(config, "swiglu_limit", SWIGLU_LIMIT)
    metadata = decoder_metadata(PREFIX, {"head_dim": 64, **config})
    metadata[f"{PREFIX}.attention.layer_norm_rms_epsilon"] = number(config, "rms_norm_eps", 1e-5)
    words = translate_rope(PREFIX, config, metadata[f"{PREFIX}.attention.key_length"], 150000.0)
    num_layers, ffn_size = metadata[f"{PREFIX}.block_count"], metadata[f"{PREFIX}.feed_forward_length"]
    num_experts = whole(config, "num_local_experts", whole(config, "num_experts", 128))
    num_used = whole(config, "num_experts_per_tok", whole(config, "experts_per_token", 4))
    metadata |= words.metadata | translate_windows(PREFIX, config, num_layers, WINDOW_PERIOD)
    metadata |= expert_metadata(PREFIX, num_experts, num_used, ffn_size, True)
    tensors = renamed(num_layers, names, NAMES)
    ignored = drop_tied_head(config, tensors, tied=False)
    for layer in range(num_layers):
        place = f"model.layers.{layer}"
        tensors[f"blk.{layer}.attn_sinks.weight"] = (Source(f"{place}.self_attn.sinks"),)
        tensors |= _experts(
            layer, f"{place}.mlp.experts", names, num_experts, ffn_size, metadata[f"{PREFIX}.embedding_length"]
        )
    stacked = frozenset(name for name, sources in tensors.items() if "_exps." in name and len(sources) == num_experts)
    return Translation(PREFIX, metadata, tensors, stacked, ignored, words.vectors)


def _experts(
    layer: int, place: str, names: Collection[str], num: int, ffn_size: int, hidden_size: int
) -> dict[str, tuple[Source, ...]]:
    """Gate and up alternate among the rows, or values, of one stored tensor."""
    tensors = {f"blk.{layer}.ffn_down_exps.weight": _matrices(f"{place}.down_proj", names, num, hidden_size, 0, 1)}
    tensors[f"blk.{layer}.ffn_down_exps.bias"] = _values(f"{place}.down_proj_bias", num, hidden_size, 0, 1)
    for first, ours in enumerate(("gate", "up")):
        stem = f"blk.{layer}.ffn_{ours}_exps"
        tensors[f"{stem}.weight"] = _matrices(f"{place}.gate_up_proj", names, num, 2 * ffn_size, first, 2)
        tensors[f"{stem}.bias"] = _values(f"{place}.gate_up_proj_bias", num, 2 * ffn_size, first, 2)
    return tensors


def _matrices(name: str, names: Collection[str], num: int, num_rows: int, first: int, step: int) -> tuple[Source, ...]:
    spans = [(expert * num_rows + first, (expert + 1) * num_rows, step) for expert in range(num)]
    if f"{name}_blocks" in names:
        return tuple(Source(f"{name}_blocks", *span, scales=f"{name}_scales") for span in spans)
    return tuple(Source(name, *span, transposed=True) for span in spans)


def _values(name: str, num: int, count: int, first: int, step: int) -> tuple[Source, ...]:
    return tuple(Source(name, expert * count + first, (expert + 1) * count, step, flat=True) for expert in range(num))
