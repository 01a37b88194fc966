"""What a model is, whatever its checkpoint called it: the facts that the graph builders need."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from enum import StrEnum

from hearth_export.checkpoint import Checkpoint, Tensors
from hearth_export.errors import UnsupportedModel

__all__ = [
    "ARCHITECTURES",
    "Activation",
    "EncoderSpec",
    "Experts",
    "ModelSpec",
    "Norm",
    "Pooling",
    "QKNorm",
    "Rope",
    "Tensors",
    "read_spec",
]

# general.architecture -> the module whose read_spec(checkpoint) gives its spec
ARCHITECTURES = {
    "bert": "hearth_export.arch.bert",
    "gemma": "hearth_export.arch.gemma",
    "gemma2": "hearth_export.arch.gemma2",
    "gemma3": "hearth_export.arch.gemma3",
    "gpt-oss": "hearth_export.arch.gpt_oss",
    "granite": "hearth_export.arch.granite",
    "granitemoe": "hearth_export.arch.granitemoe",
    "llama": "hearth_export.arch.llama",
    "modern-bert": "hearth_export.arch.modernbert",
    "nomic-bert": "hearth_export.arch.nomic_bert",
    "olmo2": "hearth_export.arch.olmo2",
    "olmo3": "hearth_export.arch.olmo2",
    "phi3": "hearth_export.arch.phi3",
    "qwen2": "hearth_export.arch.qwen2",
    "qwen3": "hearth_export.arch.qwen3",
    "qwen3moe": "hearth_export.arch.qwen3moe",
    "smollm3": "hearth_export.arch.smollm3",
    "starcoder2": "hearth_export.arch.starcoder2",
}


class Activation(StrEnum):
    """What a feed-forward network applies."""

    SILU = "silu"
    GELU = "gelu"  # with erf
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class Norm(StrEnum):
    """How a hidden state is normalised."""

    RMS = "rms"  # by its root mean square, times a weight
    LAYER = "layer"  # by mean and variance, times a weight, plus a bias where the checkpoint has one


class QKNorm(StrEnum):
    """Whether queries and keys are RMS-normalised before they turn: attn_q_norm, attn_k_norm."""

    NONE = "none"
    HEAD = "head"  # each head by itself, weight (head_dim,)
    WHOLE = "whole"  # all heads together, weight (num_heads * head_dim,)


class Pooling(StrEnum):
    """How the states of a text's tokens become one vector."""

    MEAN = "mean"
    CLS = "cls"  # the first token's
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding with all scaling applied: angle = position * inv_freq."""

    inv_freq: tuple[float, ...]  # (rotary_dim / 2,); fewer than head_dim / 2: the rest of a head is not turned
    attention_scale: float = 1.0  # multiplies cos and sin
    rows_interleaved: bool = False  # q and k rows alternate between the halves, as llama.cpp stores llama
    # longrope: frequencies of a window beyond `short_context` tokens; (): none
    long_inv_freq: tuple[float, ...] = ()
    long_attention_scale: float = 1.0
    short_context: int = 0


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of the feed-forward network: softmax over the router's best `num_used`.

    Tensors: ffn_gate_inp (num, hidden), ffn_{gate,up}_exps (num, ffn_size, hidden), ffn_down_exps (num, hidden,
    ffn_size), each with an optional bias.
    """

    num: int
    num_used: int
    ffn_size: int
    normalised: bool = True  # the chosen experts' weights add up to 1
    swiglu_limit: float = 0.0  # gpt-oss clamps gate and up; 0: no limit
    swiglu_alpha: float = 1.0  # gate * sigmoid(alpha * gate) * (up + beta)
    swiglu_beta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One normalised decoder. Tensors are named as in GGUF: blk.{l}.attn_q.weight and so on.

    A tensor that may be held fused is looked for in the checkpoint: attn_qkv in place of attn_q, attn_k and attn_v;
    ffn_up of twice the rows (gate first) in place of ffn_gate and ffn_up. Biases are used where there are any.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    tied_head: bool
    ropes: tuple[Rope, ...]
    layer_ropes: tuple[int, ...] = ()  # which of `ropes` each layer uses, -1 for none; (): the first everywhere
    windows: tuple[int, ...] = ()  # how many tokens each layer sees, itself among them; 0: all; (): all everywhere
    norm: Norm = Norm.RMS
    qk_norm: QKNorm = QKNorm.NONE
    pre_norms: bool = True  # attn_norm and ffn_norm before attention and feed-forward
    ffn_norm: str = "ffn_norm"  # the tensor of the norm before feed-forward; gpt-oss calls it post_attention_norm
    post_norms: bool = False  # post_attention_norm and post_ffw_norm after them, before the residual is added
    attention_scale: float = 0.0  # multiplies q k; 0: 1 / sqrt(head_dim)
    attention_softcap: float = 0.0  # cap * tanh(x / cap) of attention scores; 0: none
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0  # multiplies what the embedding gives
    residual_scale: float = 1.0  # multiplies what attention and feed-forward add
    logit_scale: float = 1.0  # multiplies logits
    activation: Activation = Activation.SILU
    gated: bool = True  # act(gate) * up; else act(up)
    experts: Experts | None = None
    dense_layers: frozenset[int] = frozenset()  # layers without experts in a model with experts
    sinks: bool = False  # attn_sinks (num_heads,): a logit a head that takes part in attention's softmax
    causal: bool = True
    pooling: Pooling | None = None  # where the checkpoint says that it makes embeddings
    read_tensors: frozenset[str] = frozenset()  # tensors that went into this spec

    @property
    def attention_size(self) -> int:
        """Width of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads."""
        return self.num_kv_heads * self.head_dim

    def rope_of(self, layer: int) -> Rope | None:
        """How a layer's queries and keys turn; None where they do not."""
        index = self.layer_ropes[layer] if self.layer_ropes else 0
        return self.ropes[index] if index >= 0 else None

    def window_of(self, layer: int) -> int:
        """How many tokens a layer sees; 0: all."""
        return self.windows[layer] if self.windows else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One normalised encoder. Tensors are named as in GGUF."""

    architecture: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    pooling: Pooling
    activation: Activation
    gated: bool = False
    pre_norms: bool = False  # norms before attention and feed-forward (modernbert); else after them (bert)
    first_norm: bool = True  # whether layer 0 has its norm before attention, where there are such norms
    ropes: tuple[Rope, ...] = ()  # (): positions are learned, position_embd
    layer_ropes: tuple[int, ...] = ()  # which of `ropes` each layer uses; (): the first everywhere
    windows: tuple[int, ...] = ()  # tokens seen to the left and to the right together; 0: all; (): all everywhere
    first_position: int = 0  # of a text's first token in position_embd: xlm-r begins behind its padding
    read_tensors: frozenset[str] = frozenset()


def read_spec(checkpoint: Checkpoint) -> ModelSpec | EncoderSpec:
    """The spec of a checkpoint. UnsupportedModel names an architecture without a file of its own."""
    architecture = checkpoint.require("general.architecture", str)
    module = ARCHITECTURES.get(architecture)
    if module is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModel(
            f"{checkpoint.path}: general.architecture is '{architecture}', which cannot be converted (known: {known})"
        )
    spec: ModelSpec | EncoderSpec = importlib.import_module(module).read_spec(checkpoint)
    return spec
