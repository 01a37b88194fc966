"""Tiny checkpoints with random weights, made by transformers, which is the reference for what they compute.

The same weights become a Hugging Face directory and, by the gguf package's own table of names, a GGUF file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from numpy.typing import NDArray

from hearth_export.precision import Goal
from hearthd.store import variant
from tests.hearth_export.converted import converted, decode_logits, opened, prefill_logits
from tests.tiny import CHAT_TEMPLATE, CONTROL_TOKENS, MERGES, tokens

Floats = NDArray[np.float32]
LEAST_COSINE = 0.99999
LENGTH = 48  # tokens of a text; windows in the configs are shorter
PROMPT = 29  # of these are evaluated at once, the rest one by one
VOCAB_SIZE = len(tokens())
CONTEXT_LENGTH = 256
LETTER = tokens().index("a")

# What every tiny config has; 64 and 128 split into all blocks of 32.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

Tensor = Any  # torch.Tensor
Pairs = Iterable[tuple[str, Tensor]]


def unchanged(name: str, tensor: Tensor) -> Pairs:
    """What conversion to GGUF does to the tensors of most models."""
    return [(name, tensor)]


def nothing_more(writer: gguf.GGUFWriter) -> None:
    """No keys but those that every decoder has."""


def no_tensors(model: Any) -> dict[str, Floats]:
    """No tensors but those of the model."""
    return {}


@dataclass(frozen=True)
class Family:
    """A config, and how its checkpoint is said in GGUF by llama.cpp's conversion script."""

    config: transformers.PretrainedConfig
    arch: gguf.MODEL_ARCH
    write_keys: Callable[[gguf.GGUFWriter], None] = nothing_more
    changed: Callable[[str, Tensor], Pairs] = unchanged  # a tensor under its Hugging Face name -> those of GGUF
    computed: Callable[[Any], dict[str, Floats]] = no_tensors  # the model -> what conversion computes
    model: Any = transformers.AutoModelForCausalLM


class Tiny:
    """A family's model with random weights, as a directory and as a file."""

    def __init__(self, family: Family, root: Path, seed: int = 5, dtype: Any = torch.float32) -> None:
        torch.set_num_threads(1)
        self.family = family
        self.root = root
        self.model = _random_model(family, seed, dtype)
        self.directory = root / "tiny-checkpoint"
        stored = {name: tensor.to(dtype) for name, tensor in self.model.state_dict().items()}
        self.model.save_pretrained(self.directory, state_dict=stored)
        write_tokenizer(self.directory)

    def gguf(self) -> Path:
        """The same weights as a GGUF file of F32."""
        path = self.root / "tiny.gguf"
        if not path.exists():
            write_gguf_of(self, path)
        return path

    def source(self, kind: str) -> Path:
        """Where the checkpoint lies: "safetensors" or "gguf"."""
        return self.gguf() if kind == "gguf" else self.directory

    def logits(self, ids: list[int]) -> Floats:
        """(len(ids), V) by transformers: eager attention, float32."""
        with torch.no_grad():
            return np.asarray(self.model(torch.tensor([ids])).logits[0].numpy(), np.float32)


def text(seed: int = 11, length: int = LENGTH) -> list[int]:
    """Random token ids."""
    ids: list[int] = np.random.default_rng(seed).integers(3, VOCAB_SIZE, length).tolist()
    return ids


def variant_logits(directory: Path, ids: list[int], prompt: int = PROMPT) -> dict[str, Floats]:
    """(len(ids), V) by the variant, each position in three ways: all at once, one by one, and a prompt first."""
    session = opened(directory, len(ids))
    rows = [session.evaluate(ids[:prompt]).copy()]
    for position in range(prompt, len(ids)):
        session.decode((ids[position],), (position,))
        rows.append(session.logits[0].copy())
    return {
        "prefill": prefill_logits(directory, ids),
        "decode": decode_logits(directory, ids),
        "prompt, then decode": np.stack(rows),
    }


def hidden_states(directory: Path, ids: list[int]) -> Floats:
    """(len(ids), hidden_size): what the variant's head would multiply, all tokens evaluated at once."""
    session, length = opened(directory, len(ids)), len(ids)
    feeds: dict[str, NDArray[np.generic]] = {
        variant.INPUT_IDS: np.array([ids], np.int64),
        variant.SEQLENS_K: np.array([length - 1], np.int32),
        variant.TOTAL_LENGTH: np.array([length], np.int32),
        variant.ROWS: np.arange(length, dtype=np.int64),
        **session.rotations,
    }
    for layer in range(session.info.num_layers):
        feeds |= {variant.past_name(layer, kind): session.cache.of(layer, kind) for kind in ("key", "value")}
    (states,) = session.ort.run([variant.HIDDEN], feeds)
    return np.asarray(states, np.float32)


def cosines(one: Floats, other: Floats) -> Floats:
    """Of each row, what all logits have in common taken away: softmax does not see it."""
    one, other = (x - x.mean(-1, keepdims=True) for x in (one.astype(np.float64), other.astype(np.float64)))
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(-1) / norms, np.float32)


def assert_alike(found: dict[str, Floats], reference: Floats, least: float = LEAST_COSINE) -> None:
    """Every position's logits point where the reference's do, and are as long."""
    assert reference.std(-1).min() > 0.3, "logits this flat prove nothing"
    for way, logits in found.items():
        expected = reference[-len(logits) :]
        worst = cosines(logits, expected)
        assert worst.min() >= least, f"{way}: {worst.min():.7f} at position {worst.argmin()} of {len(worst)}"
        lengths = logits.std(-1) / expected.std(-1)
        assert abs(lengths - 1).max() <= 10 * (1 - least) ** 0.5, f"{way}: logits are {lengths} times as long"


def assert_float_variant(tiny: Tiny, kind: str, ids: list[int] | None = None) -> None:
    """The float variant of a source ("safetensors", "gguf") gives transformers' logits."""
    ids = ids or text()
    directory = converted(tiny.source(kind), tiny.root / f"variants-{kind}", Goal.FLOAT)
    assert_alike(variant_logits(directory, ids), tiny.logits(ids))


def assert_quantized_variant(tiny: Tiny, kind: str, least: float) -> None:
    """The variant with 8 bit weights gives logits within `least` of transformers'."""
    ids = text()
    directory = converted(tiny.source(kind), tiny.root / f"quantized-{kind}")
    assert_alike(variant_logits(directory, ids), tiny.logits(ids), least)


def assert_quantized_mixture(tiny: Tiny, kind: str, least: float) -> None:
    """As `assert_quantized_variant`, of the middle position: where two experts are nearly tied a rounding decides."""
    ids = text()
    directory = converted(tiny.source(kind), tiny.root / f"quantized-{kind}")
    reference = tiny.logits(ids)
    for way, logits in variant_logits(directory, ids).items():
        middle = np.median(cosines(logits, reference[-len(logits) :]))
        assert middle >= least, f"{way}: {middle:.7f}"


def assert_llama_cpp_agrees(tiny: Tiny, tolerance: float = 0.02) -> None:
    """llama.cpp, given the GGUF file, predicts what transformers predicts: so the file is as llama.cpp means it."""
    for length in (5, LENGTH):
        ids = text(length=length)
        expected = torch.log_softmax(torch.from_numpy(tiny.logits(ids)[-1]), -1).numpy()
        np.testing.assert_allclose(llama_cpp_log_probabilities(tiny.gguf(), ids), expected, tolerance / 4, tolerance)


def llama_cpp_log_probabilities(path: Path, ids: list[int]) -> Floats:
    """(V,) of the token after `ids`."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, the oracle, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.port, params.cpuparams.n_threads = 256, 1, False, 0, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    chosen = [[LETTER, 1000]]  # a letter: others may be half a character, which is not answered
    body = {"prompt": ids, "n_predict": 1, "n_probs": VOCAB_SIZE, "temperature": 0, "logit_bias": chosen}
    with httpx.Client(base_url=server.listening_address, trust_env=False, timeout=60) as client:
        answer = client.post("/completion", json=body).raise_for_status().json()
    found = np.full(VOCAB_SIZE, np.nan, np.float32)
    for entry in answer["completion_probabilities"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    return found


def write_gguf_of(tiny: Tiny, path: Path) -> None:
    """As convert_hf_to_gguf.py of llama.cpp would: its names by the gguf package's table."""
    family, config = tiny.family, tiny.family.config.get_text_config()
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    if getattr(config, "rms_norm_eps", None) is not None:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    family.write_keys(writer)
    _write_vocabulary(writer)
    names = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    stored = tiny.model.state_dict()
    if tied:
        stored.pop("lm_head.weight")
    for theirs, tensor in stacked(stored).items():
        for name, changed in family.changed(theirs, tensor):
            ours = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
            writer.add_tensor(ours, np.ascontiguousarray(changed.numpy(), np.float32))
    for name, values in family.computed(tiny.model).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of single experts as one tensor a layer, as conversion to GGUF makes them."""
    together: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.\d+\.(.*)", name)
        if match is None:
            together[name] = tensor
        else:
            together.setdefault(f"{match[1]}.{match[2]}", []).append(tensor)
    return {name: torch.stack(value) if isinstance(value, list) else value for name, value in together.items()}


def write_yarn_keys(writer: gguf.GGUFWriter, config: transformers.PretrainedConfig) -> None:
    """The keys of yarn, where a config scales like that."""
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def rope_factors(model: Any) -> dict[str, Floats]:
    """What transformers divides plain frequencies by, where it does."""
    config = model.config
    found = model.model.rotary_emb.inv_freq.double().numpy()
    plain = config.rope_theta ** -(np.arange(0, 2 * found.size, 2) / (2 * found.size))
    return {"rope_freqs.weight": (plain / found).astype(np.float32)}


def permuted(tensor: Tensor, num_heads: int) -> Tensor:
    """The rows of q or k as conversion of llama and its kin orders them: the halves of each head alternate."""
    heads = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return heads.swapaxes(1, 2).reshape(tensor.shape)


def permuting(config: transformers.PretrainedConfig) -> Callable[[str, Tensor], Pairs]:
    """The change that llama and its kin make to q and k."""

    def changed(name: str, tensor: Tensor) -> Pairs:
        for kind, num_heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if f".self_attn.{kind}." in name:
                return [(name, permuted(tensor, num_heads))]
        return [(name, tensor)]

    return changed


def write_tokenizer(directory: Path) -> None:
    """The vocabulary of the other tiny models as tokenizer.json and tokenizer_config.json."""
    vocabulary = {token: index for index, token in enumerate(tokens())}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL_TOKENS[1], eos_token=CONTROL_TOKENS[2]
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


def _write_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([3] * len(CONTROL_TOKENS) + [1] * (VOCAB_SIZE - len(CONTROL_TOKENS)))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _random_model(family: Family, seed: int, dtype: Any) -> Any:
    """In float32, its weights those that `dtype` can hold."""
    family.config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(seed)
    model = family.model.from_config(family.config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_scaled(name, parameter, noise).to(dtype))
    return model


def _scaled(name: str, parameter: Tensor, noise: Tensor) -> Tensor:
    """Weights that neither vanish nor explode: norms stay around what they were, matrices keep lengths."""
    if parameter.ndim == 1:
        return (parameter if "norm" in name else 0) + 0.3 * noise
    if "embed" in name:
        return 0.3 * noise
    return noise * 1.5 / parameter.shape[-1] ** 0.5
