"""qwen3: Qwen 3, dense; queries and keys are normalised by the head."""

from __future__ import annotations

from collections.abc import Collection

from hearth_export import rope
from hearth_export.arch import qwen2
from hearth_export.arch.facts import Facts
from hearth_export.arch.windows import read_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.spec import ModelSpec, QKNorm
from hearth_export.translation import LAYER_NAMES, Config, Translation

PREFIX = "qwen3"
NAMES = LAYER_NAMES | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
HEAD_DIM = 128  # where config.json says none


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a qwen3 checkpoint."""
    facts = Facts(checkpoint, PREFIX)
    sizes = facts.decoder_sizes()
    facts.require_usual("rope.dimension_count", sizes["head_dim"])
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.rms_epsilon(),
        qk_norm=QKNorm.HEAD,
        ropes=(rope.read_rope(checkpoint, PREFIX, sizes["head_dim"], rows_interleaved=False),),
        windows=read_windows(facts, sizes["num_layers"], 1),
        pooling=facts.pooling(),
        read_tensors=rope.TENSORS,
    )


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Qwen3 checkpoint of Hugging Face in GGUF's words."""
    return qwen2.translation_as(PREFIX, {"head_dim": HEAD_DIM, **config}, names, NAMES)
