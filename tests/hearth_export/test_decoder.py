"""Tiny checkpoints through the whole exporter, run by the engine, against float32 arithmetic on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.precision import Goal
from tests.hearth_export.converted import converted, decode_logits, info_of, prefill_logits
from tests.hearth_export.float_llama import FloatLlama, log_softmax
from tests.hearth_export.gguf_writer import Meta, Tensor
from tests.hearth_export.random_blocks import SCALES
from tests.tiny import write_tiny_gguf

TOKENS = [40, 7, 101, 77, 250, 64, 64, 9, 130, 33, 81, 5, 199, 260, 17, 90, 111, 52, 3, 240, 66, 31]
MAX_ERROR = 0.05  # int8 activations cost 0.01 to 0.03 in these nets; a wrong order of rows or columns costs 1
WIDE: dict[str, Any] = {"hidden_size": 256, "ffn_size": 512}  # the 256 element types need such rows
HOLDERS = {
    "Q4_1": "augap",
    "Q5_1": "augap",
    "Q2_K": "off",
    "Q4_K": "augap",
    "Q5_K": "augap",
    "IQ1_S": "augap",
    "IQ3_S": "augap",
}
FLOATS = ("F32", "F16", "BF16")
FACTORS = Tensor("rope_freqs.weight", (8,), "F32", np.array([1, 1, 1.5, 2, 4, 8, 8, 8], np.float32))
YARN: dict[str, Meta] = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 256,
}
LINEAR: dict[str, Meta] = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}


def assert_equal_to_float_arithmetic(source: Path, root: Path, goal: Goal = Goal.BYTES) -> Path:
    directory = converted(source, root, goal)
    want = FloatLlama(source).logits(TOKENS)
    for got in (decode_logits(directory, TOKENS), prefill_logits(directory, TOKENS)):
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < MAX_ERROR
        per_row = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
        assert per_row.max() < 2 * MAX_ERROR
    return directory


@pytest.mark.parametrize("block_type", [*SCALES, *FLOATS])
def test_every_block_type_computes_what_its_weights_say(tmp_path: Path, block_type: str) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **WIDE, matrix_type=block_type)
    info = info_of(assert_equal_to_float_arithmetic(source, tmp_path / "variants"))
    assert info.holders[block_type] == HOLDERS.get(block_type, "exact")


@pytest.mark.parametrize("goal", [Goal.FIDELITY, Goal.PREFILL])
@pytest.mark.parametrize("block_type", HOLDERS)
def test_every_goal_computes_what_the_weights_say(tmp_path: Path, block_type: str, goal: Goal) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **WIDE, matrix_type=block_type)
    info = info_of(assert_equal_to_float_arithmetic(source, tmp_path / "variants", goal))
    assert info.holders[block_type] == {Goal.FIDELITY: "off", Goal.PREFILL: "q8s"}[goal]


@pytest.mark.parametrize("block_type", [*SCALES, *FLOATS])
def test_embedding_of_every_block_type_serves_as_a_tied_head_too(tmp_path: Path, block_type: str) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **WIDE, num_layers=1, embedding_type=block_type)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants")


@pytest.mark.parametrize("block_type", [*SCALES, "F16"])
def test_head_of_every_block_type_may_be_untied(tmp_path: Path, block_type: str) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **WIDE, num_layers=1, untied_type=block_type)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants")


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 1), (2, 1), (2, 2)])
def test_heads_may_share_keys_or_not(tmp_path: Path, num_heads: int, num_kv_heads: int) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", num_heads=num_heads, num_kv_heads=num_kv_heads)
    info = info_of(assert_equal_to_float_arithmetic(source, tmp_path / "variants"))
    assert (info.num_heads, info.num_kv_heads, info.head_dim) == (num_heads, num_kv_heads, 64 // num_heads)


@pytest.mark.parametrize(
    "types",
    [
        {"attn_v": "Q6_K", "ffn_down": "Q6_K"},  # as in Q4_K_M files
        {"attn_q": "Q4_0", "attn_k": "Q8_0", "attn_v": "Q5_1", "ffn_gate": "Q4_0", "ffn_up": "Q6_K"},
        {"attn_v": "F16", "ffn_down": "BF16", "attn_output": "Q3_K"},
    ],
)
def test_matrices_of_one_layer_may_be_of_different_types(tmp_path: Path, types: dict[str, str]) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **WIDE, matrix_type="Q4_K", types=types)
    info = info_of(assert_equal_to_float_arithmetic(source, tmp_path / "variants"))
    assert set(info.holders) == {"Q4_K", "Q8_0", *types.values()}


@pytest.mark.parametrize("types", [{}, {"attn_v": "Q8_0"}])
def test_attention_biases_are_added(tmp_path: Path, types: dict[str, str]) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", biases=True, types=types)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants")


@pytest.mark.parametrize("extra", [YARN, LINEAR], ids=["yarn", "linear"])
def test_rope_scaling_reaches_the_engine(tmp_path: Path, extra: dict[str, Meta]) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", matrix_type="Q8_0", extra=extra)
    assert_equal_to_float_arithmetic(source, tmp_path / "variants")


def test_rope_factors_reach_the_engine(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", matrix_type="Q8_0", extra_tensors=(FACTORS,))
    assert_equal_to_float_arithmetic(source, tmp_path / "variants")


# -- the reference itself ----------------------------------------------------------------------------------------------


def write_float_gguf(path: Path, case: str) -> Path:
    return write_tiny_gguf(
        path,
        matrix_type="F32",
        embedding_type="F32",
        biases=case == "biases",
        extra={"yarn": YARN, "linear": LINEAR}.get(case, {}),
        extra_tensors=(FACTORS,) if case == "factors" else (),
    )


@pytest.mark.parametrize("case", ["plain", "biases", "factors", "yarn", "linear"])
def test_float_arithmetic_agrees_with_llama_cpp(tmp_path: Path, case: str) -> None:
    source = write_float_gguf(tmp_path / "tiny.gguf", case)
    found = list(llama_cpp_log_probabilities(source))
    assert len(found) == 20
    assert largest_difference(found, source) < 0.15  # of some 30; llama.cpp computes attention in float16
    other = write_float_gguf(tmp_path / "other.gguf", "biases" if case == "plain" else "plain")
    assert largest_difference(found, other) > 1


def largest_difference(found: list[tuple[int, float]], source: Path) -> float:
    want = log_softmax(FloatLlama(source).logits(TOKENS)[-1])
    return max(abs(value - float(want[token])) for token, value in found)


def llama_cpp_log_probabilities(source: Path) -> Iterator[tuple[int, float]]:
    """The likeliest tokens after TOKENS."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, the oracle, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(source)
    params.n_ctx, params.n_parallel, params.warmup, params.port, params.cpuparams.n_threads = 64, 1, False, 0, 1
    server = xllamacpp.Server(params)
    body = {"prompt": TOKENS, "n_predict": 1, "n_probs": 20, "temperature": 1.0, "cache_prompt": False}
    with httpx.Client(base_url=server.listening_address, trust_env=False) as client:
        answer = client.post("/completion", json=body).raise_for_status().json()
    for entry in answer["completion_probabilities"][0]["top_logprobs"]:
        yield entry["id"], entry["logprob"]


# -- what has no place in a graph --------------------------------------------------------------------------------------


def test_heads_that_the_attention_kernel_refuses_are_refused_by_their_size(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", num_heads=8)
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf: attention heads of 8 values"):
        converted(source, tmp_path / "variants")


def test_tensor_that_the_graph_would_not_use_is_refused_by_name(tmp_path: Path) -> None:
    extra = (Tensor("blk.0.attn_q_norm.weight", (16,), "F32", np.ones(16, np.float32)),)
    source = write_tiny_gguf(tmp_path / "tiny.gguf", extra_tensors=extra)
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf: tensor blk\.0\.attn_q_norm\.weight has no place"):
        converted(source, tmp_path / "variants")


def test_layers_beyond_the_declared_count_are_refused(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", extra={"llama.block_count": 1})
    with pytest.raises(UnsupportedModel, match=r"tensor blk\.1\..* has no place .* with 1 layers"):
        converted(source, tmp_path / "variants")


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", extra={"llama.block_count": 3})
    with pytest.raises(BadCheckpoint, match=r"tiny\.gguf: tensor blk\.2\.attn_norm\.weight is missing"):
        converted(source, tmp_path / "variants")


def test_norm_of_another_length_is_refused(tmp_path: Path) -> None:
    extra = (Tensor("blk.0.attn_q.bias", (65,), "F32", np.ones(65, np.float32)),)
    source = write_tiny_gguf(tmp_path / "tiny.gguf", extra_tensors=extra)
    with pytest.raises(BadCheckpoint, match=r"tensor blk\.0\.attn_q\.bias has the shape \(65,\), expected \(64,\)"):
        converted(source, tmp_path / "variants")


def test_quantized_vector_is_refused(tmp_path: Path) -> None:
    extra = (Tensor("blk.0.attn_q.bias", (64,), "Q8_0"),)
    source = write_tiny_gguf(tmp_path / "tiny.gguf", extra_tensors=extra)
    with pytest.raises(UnsupportedModel, match=r"tensor blk\.0\.attn_q\.bias is of type Q8_0; vectors are expected as"):
        converted(source, tmp_path / "variants")


def test_vector_with_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    bias = np.zeros(64, np.float32)
    bias[5] = np.inf
    source = write_tiny_gguf(tmp_path / "tiny.gguf", extra_tensors=(Tensor("blk.1.attn_q.bias", (64,), "F32", bias),))
    with pytest.raises(BadCheckpoint, match=r"tensor blk\.1\.attn_q\.bias holds a value that is not finite"):
        converted(source, tmp_path / "variants")
    assert not [path for path in (tmp_path / "variants").iterdir() if path.is_dir()]
