"""The tiny llama as a Hugging Face directory, made without the libraries that usually make one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.hearth_export.safetensors_writer import Stored, write_repository
from tests.tiny import CHAT_TEMPLATE, CONTROL_TOKENS, MERGES, tokens

SIZE, FFN, NUM_HEADS, NUM_KV_HEADS, NUM_LAYERS = 64, 128, 4, 2, 2


def write_tiny_directory(
    directory: Path, *, dtype: str = "BF16", num_shards: int = 1, seed: int = 7, **config: Any
) -> Path:
    """Writes the checkpoint and returns its directory."""
    about = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens()),
        "hidden_size": SIZE,
        "intermediate_size": FFN,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **config,
    }
    weights = {name: Stored(values, dtype) for name, values in _weights(seed).items()}
    return write_repository(directory, about, weights, num_shards, _tokenizer_files())


def _weights(seed: int) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    kv_size = SIZE // NUM_HEADS * NUM_KV_HEADS

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return generator.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)

    embedding = generator.standard_normal((len(tokens()), SIZE), np.float32)
    embedding[: len(CONTROL_TOKENS)] = 0  # greedy output is ASCII text that does not end by itself
    embedding[len(CONTROL_TOKENS) + 128 : len(CONTROL_TOKENS) + 256] = 0
    found = {"model.embed_tokens.weight": embedding, "model.norm.weight": np.ones(SIZE, np.float32)}
    shapes = {
        "self_attn.q_proj": (SIZE, SIZE), "self_attn.k_proj": (kv_size, SIZE), "self_attn.v_proj": (kv_size, SIZE),
        "self_attn.o_proj": (SIZE, SIZE), "mlp.gate_proj": (FFN, SIZE), "mlp.up_proj": (FFN, SIZE),
        "mlp.down_proj": (SIZE, FFN),
    }  # fmt: skip
    for layer in range(NUM_LAYERS):
        place = f"model.layers.{layer}"
        found |= {f"{place}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        found |= {
            f"{place}.{name}.weight": 1 + generator.random(SIZE, np.float32)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
    return found


def _tokenizer_files() -> dict[str, bytes]:
    added = [
        {"id": index, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for index, token in enumerate(CONTROL_TOKENS)
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens())}, "merges": list(MERGES)},
    }
    about = {
        "bos_token": CONTROL_TOKENS[1],
        "eos_token": CONTROL_TOKENS[2],
        "chat_template": CHAT_TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": about}
    return {name: json.dumps(content).encode() for name, content in files.items()}
