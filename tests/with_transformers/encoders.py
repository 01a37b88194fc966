"""Tiny encoders of transformers with random weights, as directories and as GGUF files, and the vectors they give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from hearth_export.precision import Goal
from hearthd.engine.encoder import EncoderSession
from hearthd.engine.providers.provider import load_provider
from tests.hearth_export.converted import converted, info_of

Floats = NDArray[np.float32]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(59))]
CONTEXT = 96
LENGTHS = (1, 3, 17, 40, 17, 90)
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
}
FLAGS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}


@dataclass(slots=True)
class TinyEncoder:
    """A checkpoint in a directory; `extra_keys` are what its GGUF file says beyond sizes."""

    directory: Path
    config: transformers.PretrainedConfig
    architecture: str
    pooling: str = "mean"
    extra_keys: Mapping[str, float | int] = field(default_factory=dict)
    first_position: int = 0
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(5)
        self.config._attn_implementation = "eager"
        self.model = transformers.AutoModel.from_config(self.config).float().eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                noise = torch.randn(parameter.shape)
                is_norm = "norm" in name.lower() and parameter.ndim == 1 and name.endswith("weight")
                scale = 0.3 if parameter.ndim == 1 or "embeddings" in name else 1.2 / parameter.shape[-1] ** 0.5
                parameter.copy_(float(is_norm) + scale * noise)
        self.model.save_pretrained(self.directory)
        _write_tokenizer(self.directory)
        self._write_sentence_files()

    def _write_sentence_files(self) -> None:
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
        (self.directory / "modules.json").write_text(json.dumps(modules))
        (self.directory / "1_Pooling").mkdir()
        flags = {flag: mode == self.pooling for mode, flag in FLAGS.items()}
        (self.directory / "1_Pooling" / "config.json").write_text(json.dumps(flags))

    def expected(self, texts: Sequence[Sequence[int]]) -> Floats:
        """What transformers gives, each text by itself, pooled as sentence-transformers does."""
        rows = []
        with torch.no_grad():
            for text in texts:
                states = self.model(input_ids=torch.tensor([text])).last_hidden_state[0]
                rows.append({"mean": states.mean(0), "cls": states[0], "last": states[-1]}[self.pooling].numpy())
        return np.stack(rows)

    def source(self, kind: str, root: Path) -> Path:
        """The directory, or a GGUF file made of it."""
        return self.directory if kind == "safetensors" else self._write_gguf(root / "model.gguf")

    def _write_gguf(self, path: Path) -> Path:
        """As convert_hf_to_gguf.py of llama.cpp would: its names by the gguf package's table."""
        config, arch = self.config, self.architecture
        writer = gguf.GGUFWriter(path, arch)
        writer.add_context_length(config.max_position_embeddings - self.first_position)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or getattr(config, "norm_eps", 1e-12))
        writer.add_causal_attention(False)
        writer.add_pooling_type({"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}[self.pooling])
        for key, value in self.extra_keys.items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(f"{arch}.{key}", value)
        _write_vocabulary(writer)
        (number,) = (key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
        names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
        for theirs, tensor in self.model.state_dict().items():
            if "pooler" in theirs or "position_ids" in theirs or "token_type_ids" in theirs:
                continue
            values = tensor.numpy()
            if "position_embeddings" in theirs:
                values = values[self.first_position :]
            name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            assert name is not None, theirs
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def texts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    random = np.random.default_rng(2)
    return [[2, *random.integers(5, len(WORDS), length).tolist(), 3] for length in lengths]


def assert_vectors_alike(
    tiny: TinyEncoder, kind: str, root: Path, goal: Goal, least: float, lengths: Sequence[int] = LENGTHS
) -> None:
    """The variant made of a checkpoint of this kind gives the vectors of transformers, all texts in one call.

    `lengths`: of the texts, two special tokens apart.
    """
    directory = converted(tiny.source(kind, root), root / "variants", goal)
    found = EncoderSession(directory, info_of(directory), load_provider("cpu", 1)).vectors(texts(lengths))
    expected = tiny.expected(texts(lengths))
    cosines = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosines.min() >= least, cosines
    sizes = np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    np.testing.assert_allclose(sizes, 1, rtol=1e-4 if goal is Goal.FLOAT else 0.05)


def _write_tokenizer(directory: Path) -> None:
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)


def _write_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*WORDS[:5], *(f"▁{word}" for word in WORDS[5:])])
    writer.add_token_types([3] * 5 + [1] * (len(WORDS) - 5))
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
