"""`merge` of the command line: adapters added to checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
from gguf import quants

from hearth_export.__main__ import main
from hearth_export.readers.gguf import open_gguf
from tests.hearth_export.adapters import (
    Floats,
    Pair,
    peft_name,
    random_pair,
    write_gguf_adapter,
    write_peft_adapter,
    write_peft_files,
)
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.llama_cpp import next_log_probabilities
from tests.tiny import tokens, write_tiny_gguf

Capture = pytest.CaptureFixture[str]
SIZE, FFN, HEAD, KV = 64, 128, 16, 32  # of the tiny model
SHAPES = {"attn_q": (SIZE, SIZE), "attn_k": (KV, SIZE), "attn_v": (KV, SIZE), "attn_output": (SIZE, SIZE),
          "ffn_gate": (FFN, SIZE), "ffn_up": (FFN, SIZE), "ffn_down": (SIZE, FFN)}  # fmt: skip


def merged(source: Path, adapter: Path, out: Path) -> int:
    return main(["merge", str(source), "--adapter", str(adapter), "--out", str(out)])


def sentence(capture: Capture) -> str:
    lines = [msgspec.json.decode(line) for line in capture.readouterr().out.splitlines()]
    assert [line for line in lines if "error" in line] == lines[-1:]
    return str(lines[-1]["error"])


def weights(path: Path) -> dict[str, Floats]:
    """The gguf package's reading of all tensors."""
    return {
        tensor.name: np.asarray(quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        for tensor in gguf.GGUFReader(str(path)).tensors
    }


def types(path: Path) -> dict[str, str]:
    with open_gguf(path) as file:
        return {name: info.type for name, info in file.tensors.items()}


def pairs_of(*names: str) -> dict[str, Pair]:
    """Random pairs for tensors such as "0.attn_q"."""
    found = {}
    for seed, name in enumerate(names):
        layer, _, kind = name.partition(".")
        found[f"blk.{layer}.{kind}.weight"] = random_pair(*SHAPES[kind], seed=seed)
    return found


def in_pairs(b: Floats) -> Floats:
    """Rows of halves as llama.cpp's conversion orders them."""
    return b.reshape(-1, 2, HEAD // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


ALL = tuple(f"{layer}.{kind}" for layer in (0, 1) for kind in SHAPES)


@pytest.mark.parametrize("base", ["F32", "F16", "BF16", "Q4_1", "Q8_0"])
def test_touched_matrices_have_the_product_added_and_the_rest_is_the_same_to_the_byte(
    tmp_path: Path, base: str
) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf", matrix_type=base)
    pairs = pairs_of("0.attn_q", "1.ffn_down", "1.attn_v")
    adapter = write_gguf_adapter(tmp_path / "adapter.gguf", pairs, alpha=6)
    out = tmp_path / "out.gguf"
    assert merged(source, adapter, out) == 0
    before, after, kinds, old_kinds = weights(source), weights(out), types(out), types(source)
    is_float = base in ("F32", "F16", "BF16")
    error = {"F32": 1e-6, "F16": 1e-3, "BF16": 8e-3}.get(base, 8e-3)
    for name, (a, b) in pairs.items():
        expected = before[name] + 6 / 4 * b @ a
        assert np.abs(after[name] - expected).max() <= error * np.abs(expected).max()
        assert np.abs(expected - before[name]).max() > 10 * error * np.abs(expected).max(), "the adapter does nothing"
        assert kinds[name] == (base if is_float else "Q8_0")
    with open_gguf(source) as old, open_gguf(out) as new:
        assert list(new.metadata) == list(old.metadata)
        for name, info in old.tensors.items():
            if name not in pairs:
                assert kinds[name] == old_kinds[name]
                assert new.rows(name, 0, info.num_rows).tobytes() == old.rows(name, 0, info.num_rows).tobytes()


def test_adapter_without_alpha_is_added_as_it_is(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf", matrix_type="F32")
    pairs = pairs_of("0.ffn_up")
    assert merged(source, write_gguf_adapter(tmp_path / "a.gguf", pairs, alpha=0), tmp_path / "out.gguf") == 0
    a, b = pairs["blk.0.ffn_up.weight"]
    found = weights(tmp_path / "out.gguf")["blk.0.ffn_up.weight"] - weights(source)["blk.0.ffn_up.weight"]
    np.testing.assert_allclose(found, b @ a, atol=1e-5)


def test_llama_cpp_says_the_same_of_a_merged_file_as_of_the_adapter_applied(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf", matrix_type="F32", embedding_type="F32")
    adapter = write_gguf_adapter(tmp_path / "adapter.gguf", pairs_of(*ALL))
    assert merged(source, adapter, tmp_path / "out.gguf") == 0
    ids = [100, 70, 101, 80, 90, 75]
    plain = next_log_probabilities(source, ids, len(tokens()))
    applied = next_log_probabilities(source, ids, len(tokens()), adapter)
    ours = next_log_probabilities(tmp_path / "out.gguf", ids, len(tokens()))
    assert np.abs(plain - applied).max() > 0.2, "the adapter does nothing"
    np.testing.assert_allclose(ours, applied, atol=0.01)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2),
        ({"lora_alpha": 3}, 0.75),
        ({"use_rslora": True}, 4),
        ({"alpha_pattern": {"mlp.up_proj": 3}}, 2),
        ({"alpha_pattern": {"q_proj": 5, "k_proj": 5, "o_proj": 5}}, 1.25),
        ({"fan_in_fan_out": True, "modules_to_save": None, "target_modules": ["q_proj"]}, 2),
    ],
)
def test_peft_s_adapter_is_scaled_as_peft_does_and_its_rows_take_llama_cpp_s_order(
    tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf", matrix_type="F32")
    pairs = pairs_of("0.attn_q", "1.attn_k", "1.attn_output")
    assert merged(source, write_peft_adapter(tmp_path / "peft", pairs, **config), tmp_path / "out.gguf") == 0
    before, after = weights(source), weights(tmp_path / "out.gguf")
    for name, (a, b) in pairs.items():
        rows = b if "output" in name else in_pairs(b)
        np.testing.assert_allclose(after[name] - before[name], scale * rows @ a, atol=1e-5)


def test_head_of_its_own_takes_an_adapter(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf", matrix_type="F32", untied_type="F32")
    pairs = {"output.weight": random_pair(len(tokens()), SIZE)}
    assert merged(source, write_peft_adapter(tmp_path / "peft", pairs), tmp_path / "out.gguf") == 0
    a, b = pairs["output.weight"]
    found = weights(tmp_path / "out.gguf")["output.weight"] - weights(source)["output.weight"]
    np.testing.assert_allclose(found, 2 * b @ a, atol=1e-5)


def experts(path: Path, num_experts: int) -> Path:
    values = np.random.default_rng(1).standard_normal((num_experts, 8, 32), np.float32)
    metadata: dict[str, Meta] = {"general.architecture": "qwen3moe", "qwen3moe.block_count": 1}
    return write_gguf(path, metadata, [Tensor("blk.0.ffn_gate_exps.weight", values.shape, "F32", values)])


def test_experts_get_their_own_products_from_either_format(tmp_path: Path) -> None:
    source = experts(tmp_path / "base.gguf", 3)
    generator = np.random.default_rng(2)
    a, b = generator.standard_normal((3, 2, 32), np.float32), generator.standard_normal((3, 8, 2), np.float32)
    extra: dict[str, Meta] = {"general.architecture": "qwen3moe"}
    stacked = {"blk.0.ffn_gate_exps.weight": (a, b)}
    in_gguf = write_gguf_adapter(tmp_path / "a.gguf", stacked, alpha=2, extra=extra)
    single = {
        f"base_model.model.model.layers.0.mlp.experts.{e}.gate_proj.lora_{half}.weight": values[e]
        for e in (0, 1, 2)
        for half, values in (("A", a), ("B", b))
    }
    in_peft = write_peft_files(tmp_path / "peft", single, lora_alpha=2)
    for adapter in (in_gguf, in_peft):
        assert merged(source, adapter, tmp_path / "out.gguf") == 0
        name = "blk.0.ffn_gate_exps.weight"
        found = weights(tmp_path / "out.gguf")[name] - weights(source)[name]
        np.testing.assert_allclose(found, b @ a, atol=1e-4)


def test_norms_of_an_adapter_take_the_place_of_the_checkpoint_s(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf")
    norm = np.linspace(0.5, 1.5, SIZE, dtype=np.float32)
    more = (Tensor("blk.1.ffn_norm.weight", (SIZE,), "F32", norm),)
    adapter = write_gguf_adapter(tmp_path / "a.gguf", pairs_of("0.attn_v"), more=more)
    assert merged(source, adapter, tmp_path / "out.gguf") == 0
    np.testing.assert_array_equal(weights(tmp_path / "out.gguf")["blk.1.ffn_norm.weight"].reshape(-1), norm)


# -- refusals ----------------------------------------------------------------------------------------------------------

Write = Callable[[Path], Path]
A, B = random_pair(SIZE, SIZE)


def peft(tensors: dict[str, Floats] | None = None, **config: Any) -> Write:
    if tensors is None:
        return lambda root: write_peft_adapter(root / "peft", pairs_of("0.attn_q"), **config)
    return lambda root: write_peft_files(root / "peft", tensors, **config)


def in_file(pairs: dict[str, Pair] | None = None, **more: Any) -> Write:
    return lambda root: write_gguf_adapter(root / "a.gguf", pairs_of("0.attn_q") if pairs is None else pairs, **more)


def text(content: str) -> Write:
    def write(root: Path) -> Path:
        directory = write_peft_adapter(root / "peft", pairs_of("0.attn_q"))
        (directory / "adapter_config.json").write_text(content)
        return directory

    return write


def empty(root: Path) -> Path:
    (root / "x").mkdir()
    return root / "x"


def truncated(root: Path) -> Path:
    path = peft()(root) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    return path.parent


Q = peft_name("blk.0.attn_q.weight")
BAD: dict[str, tuple[Write, tuple[str, ...]]] = {
    "no_adapter": (lambda root: write_tiny_gguf(root / "a.gguf"), ("general.type", "no LoRA adapter")),
    "other_kind": (in_file(extra={"adapter.type": "control_vector"}), ("adapter.type", "control_vector")),
    "other_architecture": (in_file(extra={"general.architecture": "gemma"}), ("'gemma'", "'llama'")),
    "nothing": (in_file({}), ("holds no pair",)),
    "half": (
        in_file(more=(Tensor("blk.0.attn_v.weight.lora_a", (4, SIZE), "F32", A),)),
        ("blk.0.attn_v.weight.lora_b is missing",),
    ),
    "stranger": (in_file(more=(Tensor("x.bias", (4,), "F32", A[0, :4]),)), ("x.bias", "neither")),
    "layer_beyond": (in_file({"blk.7.attn_q.weight": (A, B)}), ("blk.7.attn_q.weight", "another model")),
    "tied_head": (in_file({"output.weight": (A, B)}), ("output.weight", "its head is the embedding")),
    "embedding": (in_file({"token_embd.weight": (A, B)}), ("token_embd.weight.lora_a", "embedding")),
    "other_shape": (in_file({"blk.0.attn_k.weight": (A, B)}), ("64 x 64", "32 x 64", "another model")),
    "other_rank": (in_file({"blk.0.attn_q.weight": (A[:2], B)}), ("do not multiply",)),
    "alora": (in_file(extra={"adapter.alora.invocation_tokens": [1]}), ("switched on by tokens",)),
    "not_finite": (in_file({"blk.0.attn_q.weight": (A * np.inf, B)}), ("blk.0.attn_q.weight", "not finite")),
    "no_config": (empty, ("adapter_config.json", "No such file")),
    "config_no_json": (text("{"), ("adapter_config.json",)),
    "config_of_another_form": (text('{"lora_alpha": "x"}'), ("adapter_config.json", "lora_alpha")),
    "other_peft": (peft(peft_type="IA3"), ("peft_type", "IA3")),
    "dora": (peft(use_dora=True), ("use_dora",)),
    "biases": (peft(bias="all"), ("bias", "all")),
    "saved_modules": (peft(modules_to_save=["lm_head"]), ("modules_to_save", "lm_head", "merge_and_unload")),
    "truncated": (truncated, ("adapter_model.safetensors",)),
    "peft_half": (peft({f"{Q}.lora_A.weight": A}), ("lora_A", "no other half, lora_B")),
    "peft_embedding": (peft({"base_model.model.model.embed_tokens.lora_embedding_A": A}), ("embedding",)),
    "unknown_module": (
        peft({f"base_model.model.model.layers.0.mamba.in_proj.lora_{half}.weight": A for half in "AB"}),
        ("mamba.in_proj", "merge_and_unload"),
    ),
    "integers": (
        peft({f"{Q}.lora_{half}.weight": np.ones((4, 64), np.int64) for half in "AB"}),
        ("I64", "float matrix"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_unfit_adapter_is_refused_in_one_line_that_names_it(tmp_path: Path, capsys: Capture, case: str) -> None:
    write, parts = BAD[case]
    source, out = write_tiny_gguf(tmp_path / "base.gguf"), tmp_path / "out.gguf"
    adapter = write(tmp_path)
    before = set(tmp_path.iterdir())
    assert merged(source, adapter, out) == 1
    said = sentence(capsys)
    assert all(part in said for part in parts), said
    assert str(adapter) in said or str(source) in said
    assert set(tmp_path.iterdir()) == before


def test_alpha_that_is_not_finite_is_refused(tmp_path: Path, capsys: Capture) -> None:
    adapter = write_peft_adapter(tmp_path / "peft", pairs_of("0.attn_q"))
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1e300}))
    assert merged(write_tiny_gguf(tmp_path / "base.gguf"), adapter, tmp_path / "out.gguf") == 1
    assert "not finite" in sentence(capsys)
