"""bert: BERT and what is built alike: MiniLM, bge, e5, arctic-embed, gte; RoBERTa and XLM-RoBERTa; DistilBERT."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export.arch.encoders import encoder_metadata, encoder_sizes, encoder_tensors, without
from hearth_export.arch.facts import Facts
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint
from hearth_export.spec import EncoderSpec
from hearth_export.translation import Config, Source, Translation, number, only, whole

PREFIX = "bert"
POSITIONS = "position_embd.weight"
MODEL_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}
LAYER_NAMES = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
DISTIL_NAMES = {
    "attn_q": "attention.q_lin",
    "attn_k": "attention.k_lin",
    "attn_v": "attention.v_lin",
    "attn_output": "attention.out_lin",
    "attn_output_norm": "sa_layer_norm",
    "ffn_up": "ffn.lin1",
    "ffn_down": "ffn.lin2",
    "layer_output_norm": "output_layer_norm",
}
DISTIL_KEYS = {
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "hidden_act": "activation",
}
DISTIL_EPSILON = 1e-12  # in transformers' code, not in the config
PREFIXES = ("bert.", "roberta.", "distilbert.")
SHIFTED = ("roberta", "xlm-roberta", "camembert")  # whose positions begin behind the padding token's id


def read_spec(checkpoint: Checkpoint) -> EncoderSpec:
    """The EncoderSpec of a bert checkpoint."""
    return EncoderSpec(architecture=PREFIX, **encoder_sizes(Facts(checkpoint, PREFIX), "gelu"))


def translate(config: Config, names: Collection[str]) -> Translation:
    """A BERT, RoBERTa, XLM-RoBERTa or DistilBERT checkpoint of Hugging Face in GGUF's words."""
    only(config, "position_embedding_type", "absolute", None)
    is_distil = config.get("model_type") == "distilbert"
    num_positions, first = whole(config, "max_position_embeddings"), _first_position(config)
    if num_positions <= first:
        raise BadCheckpoint(
            f"config.json: max_position_embeddings is {num_positions}, and the first {first} are unused"
        )
    metadata = encoder_metadata(PREFIX, config, DISTIL_KEYS if is_distil else {}, num_positions - first)
    epsilon = DISTIL_EPSILON if is_distil else number(config, "layer_norm_eps", 1e-12)
    metadata[f"{PREFIX}.attention.layer_norm_epsilon"] = epsilon
    tensors = encoder_tensors(
        metadata[f"{PREFIX}.block_count"],
        names,
        MODEL_NAMES,
        DISTIL_NAMES if is_distil else LAYER_NAMES,
        "transformer.layer" if is_distil else "encoder.layer",
        PREFIXES,
    )
    if first and POSITIONS in tensors:
        tensors[POSITIONS] = (Source(tensors[POSITIONS][0].name, first),)
    return Translation(PREFIX, metadata, tensors, ignored=_ignored(names))


def _first_position(config: Config) -> int:
    """The row of the position embeddings that a text's first token takes."""
    if config.get("model_type") not in SHIFTED:
        return 0
    return whole({"pad_token_id": config.get("pad_token_id", 1) + 1}, "pad_token_id")


def _ignored(names: Collection[str]) -> frozenset[str]:
    """Heads for other tasks, and what is no weight."""
    heads = ("pooler.", "cls.", "lm_head.", "vocab_", "embeddings.position_ids")
    return without(names, *(f"{prefix}{head}" for prefix in ("", *PREFIXES) for head in heads))
