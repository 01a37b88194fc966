"""gemma3: the text part of Gemma 3. Five layers with a window and a rotary base of their own, then one without.

Ollama's files hold the vision part too, and leave out or misstate what follows from the model's size: its
llama/compat/llama-ollama-compat.cpp and model/models/gemma3/model_text.go say which.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hearth_export import rope
from hearth_export.arch.facts import Facts, Sizes
from hearth_export.arch.gemma import TANH, gemma_metadata, shifted
from hearth_export.arch.gemma2 import MAX_CAP, NAMES, read_attention_scale, translate_attention_scale
from hearth_export.arch.windows import read_windows, sliding_layers, translate_windows
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.rope_config import SLIDING, plain_base, rope_config, translate_rope
from hearth_export.spec import Activation, ModelSpec, QKNorm, Rope
from hearth_export.translation import Config, Source, Translation, drop_tied_head, number, only, renamed, whole

PREFIX = "gemma3"
GEMMA3_NAMES = NAMES | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
PERIOD = 6
WINDOW_BASE = 10000.0  # the local layers' rotary base, which old files leave out
BASE = 1000000.0
LAYERS_OF_27B = 62
SCALED_LAYERS, FACTOR = (34, 48, LAYERS_OF_27B), 8.0  # 4B, 12B and 27B turn slower, whether their file says so or not
EPSILON = 1e-6
# A checkpoint with vision says the least of its text part.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
VISION_IN_GGUF = ("v.", "mm.")
VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
TEXT_PREFIXES = ("language_model.model.", "model.language_model.")  # of checkpoints with vision


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a gemma3 checkpoint. What the file does not say is as llama.cpp and Ollama take it."""
    facts = Facts(checkpoint, PREFIX)
    _refuse_embedding_model(facts)
    sizes = facts.decoder_sizes()
    windows = read_windows(facts, sizes["num_layers"], PERIOD)
    return ModelSpec(
        architecture=PREFIX,
        **sizes,
        norm_epsilon=facts.number("attention.layer_norm_rms_epsilon", 0, 1, EPSILON),
        ropes=_ropes(facts, sizes, has_windows=bool(windows)),
        layer_ropes=tuple(int(window > 0) for window in windows),
        windows=windows,
        qk_norm=QKNorm.HEAD,
        post_norms=True,
        attention_scale=read_attention_scale(facts, sizes, LAYERS_OF_27B),
        logit_softcap=_logit_softcap(facts, has_windows=bool(windows)),
        embedding_scale=sizes["hidden_size"] ** 0.5,
        activation=Activation.GELU_TANH,
        read_tensors=frozenset(name for name in checkpoint.tensors if name.startswith(VISION_IN_GGUF)),
    )


def _refuse_embedding_model(facts: Facts) -> None:
    """EmbeddingGemma goes by the same name in Ollama's files."""
    if "dense.0.weight" in facts.checkpoint.tensors or not facts.flag("attention.causal", True):
        raise UnsupportedModel(
            f"{facts.checkpoint.path}: this Gemma 3 makes embeddings (its tokens see those behind them), "
            "and cannot be converted"
        )


def _ropes(facts: Facts, sizes: Sizes, *, has_windows: bool) -> tuple[Rope, ...]:
    """The rope of layers that see everything, and that of layers with a window."""
    checkpoint, head_dim = facts.checkpoint, sizes["head_dim"]
    everywhere = rope.read_rope(
        checkpoint,
        PREFIX,
        head_dim,
        rows_interleaved=False,
        default_base=BASE,
        default_factor=FACTOR if has_windows and sizes["num_layers"] in SCALED_LAYERS else 1.0,
    )
    if not has_windows:
        return (everywhere,)
    return everywhere, rope.read_window_rope(checkpoint, PREFIX, head_dim, WINDOW_BASE)


def _logit_softcap(facts: Facts, *, has_windows: bool) -> float:
    """GGUF files of models with windows tell of a cap that is none; llama.cpp does not look at it there."""
    cap = facts.number("final_logit_softcapping", 0, MAX_CAP, 0.0)
    return 0.0 if has_windows and facts.checkpoint.format == "gguf" else cap


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Gemma 3 checkpoint of Hugging Face, its text part if it has vision too, in GGUF's words."""
    text = _text_config(config)
    num_layers, head_dim = whole(text, "num_hidden_layers"), whole(text, "head_dim")
    metadata = gemma_metadata(PREFIX, text)
    metadata[f"{PREFIX}.attention.scale"] = translate_attention_scale(text)
    metadata[f"{PREFIX}.final_logit_softcapping"] = number(text, "final_logit_softcapping", 0.0)
    metadata |= _windows(text, num_layers)
    words = translate_rope(PREFIX, text, head_dim, BASE)
    tensors = _tensors(names, num_layers)
    ignored = drop_tied_head(text, tensors, tied=True)
    ignored |= {name for name in names if name.startswith(VISION) or name.endswith("lm_head.weight")}
    return Translation(PREFIX, metadata | words.metadata, shifted(tensors), ignored=ignored, vectors=words.vectors)


def _text_config(config: Config) -> Config:
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        raise BadCheckpoint("config.json: text_config is no object")
    only(text, "hidden_activation", TANH)
    only(text, "use_bidirectional_attention", False, None)
    only(text, "attn_logit_softcapping", None)
    return {**DEFAULTS, **text}


def _windows(text: Config, num_layers: int) -> dict[str, Any]:
    """The keys of windows, and of the rotary base in layers that have them."""
    given = text.get("sliding_window_pattern", text.get("_sliding_window_pattern"))
    period = PERIOD if given is None else whole({"sliding_window_pattern": given}, "sliding_window_pattern")
    if text.get("sliding_window") is None and any(sliding_layers(text, num_layers, period)):
        raise BadCheckpoint("config.json: sliding_window is null, but there are layers with a window")
    settings = rope_config(text, SLIDING)
    if settings.where.endswith(SLIDING):
        base = plain_base(text, SLIDING, WINDOW_BASE)
    else:
        base = number(text, "rope_local_base_freq", WINDOW_BASE)
    return translate_windows(PREFIX, text, num_layers, period) | {f"{PREFIX}.rope.freq_base_swa": base}


def _tensors(names: Collection[str], num_layers: int) -> dict[str, tuple[Source, ...]]:
    """The text part's tensors, which go by longer names where there is vision too."""
    prefix = next((prefix for prefix in TEXT_PREFIXES if f"{prefix}norm.weight" in names), "model.")
    short = {f"model.{name.removeprefix(prefix)}": name for name in names if name.startswith(prefix)}
    short |= {name.removeprefix("language_model."): name for name in names if name.endswith("lm_head.weight")}
    tensors = renamed(num_layers, short, GEMMA3_NAMES)
    return {ours: (Source(short[sources[0].name]),) for ours, sources in tensors.items()}
