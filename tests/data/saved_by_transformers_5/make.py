"""Makes the checkpoints beside this file and the vectors they give: `python make.py`, with transformers 5.23 and torch.

The export extra keeps transformers below 5 for Optimum's sake; that version has no NomicBert of its own, and saves
ModernBERT's settings by other words. Weights are random, stored as float16.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import ModernBertConfig, ModernBertModel, NomicBertConfig, NomicBertModel

HERE = Path(__file__).parent
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "pad_token_id": 0}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(59))]
LENGTHS = (1, 7, 40, 90)


def models() -> dict[str, torch.nn.Module]:
    """The checkpoints, their weights still to be made."""
    theta = {"rope_type": "default", "rope_theta": 5000.0}
    thetas = {"full_attention": theta, "sliding_attention": theta | {"rope_theta": 300.0}}
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    ids = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    nomic = NomicBertConfig(**SIZES, num_hidden_layers=2, max_position_embeddings=96, rope_parameters=theta)
    modern = ModernBertConfig(
        **SIZES | ids, num_hidden_layers=4, max_position_embeddings=96, local_attention=8, layer_types=types,
        rope_parameters=thetas,
    )  # fmt: skip
    return {"nomic_bert": NomicBertModel(nomic, add_pooling_layer=False), "modernbert": ModernBertModel(modern)}


def main() -> None:
    torch.manual_seed(5)
    random = np.random.default_rng(2)
    texts = [[2, *random.integers(5, len(WORDS), length).tolist(), 3] for length in LENGTHS]
    expected: dict[str, object] = {"texts": texts}
    for name, model in models().items():
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                is_norm = "norm" in key.lower() and parameter.ndim == 1 and key.endswith("weight")
                scale = 0.3 if parameter.ndim == 1 or "embeddings" in key else 1.2 / parameter.shape[-1] ** 0.5
                parameter.copy_((float(is_norm) + scale * torch.randn(parameter.shape)).half())
            model.eval().save_pretrained(
                HERE / name, state_dict={key: value.half() for key, value in model.state_dict().items()}
            )
            means = [model(input_ids=torch.tensor([text])).last_hidden_state[0].mean(0) for text in texts]
        expected[name] = [[round(float(value), 6) for value in mean] for mean in means]
        (HERE / name / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (HERE / name / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}) + "\n")
    (HERE / "means.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
