"""SmolLM2-135M, Q4_1, against float32 arithmetic on the same dequantized weights, over a page of prose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray

from hearth_export.precision import Goal
from tests.hearth_export.converted import converted, decode_logits, info_of, opened, prefill_logits
from tests.hearth_export.float_llama import FloatLlama, divergence, perplexity

Floats = NDArray[np.float32]
PROSE = Path(__file__).parents[1] / "data" / "prose.txt"
MAX_DIVERGENCE = 0.005  # nats a token
MAX_PERPLEXITY_CHANGE = 0.01


@pytest.fixture(scope="module")
def prose(smollm2_variant: Path) -> list[int]:
    tokenizer = tokenizers.Tokenizer.from_file(str(smollm2_variant / "tokenizer.json"))
    tokens: list[int] = tokenizer.encode(PROSE.read_text(), add_special_tokens=False).ids
    return tokens


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path, prose: list[int]) -> Floats:
    return FloatLlama(smollm2_gguf).logits(prose)


def assert_faithful(candidate: Floats, reference: Floats, tokens: list[int]) -> None:
    assert len(tokens) > 500
    assert divergence(reference, candidate) <= MAX_DIVERGENCE
    assert perplexity(candidate, tokens) == pytest.approx(perplexity(reference, tokens), rel=MAX_PERPLEXITY_CHANGE)


def test_token_by_token_the_converted_model_predicts_like_the_float_one(
    smollm2_variant: Path, prose: list[int], reference: Floats
) -> None:
    assert_faithful(decode_logits(smollm2_variant, prose), reference, prose)


def test_as_a_prompt_the_converted_model_predicts_like_the_float_one(
    smollm2_variant: Path, prose: list[int], reference: Floats
) -> None:
    assert_faithful(prefill_logits(smollm2_variant, prose), reference, prose)


def test_float_variant_predicts_the_same_tokens(
    smollm2_gguf: Path, tmp_path: Path, prose: list[int], reference: Floats
) -> None:
    candidate = prefill_logits(converted(smollm2_gguf, tmp_path, Goal.FLOAT), prose)
    assert divergence(reference, candidate) <= 1e-6
    assert (candidate.argmax(-1) == reference.argmax(-1)).mean() >= 0.99


def test_variant_for_fidelity_predicts_the_same_tokens(
    smollm2_gguf: Path, tmp_path: Path, prose: list[int], reference: Floats
) -> None:
    directory = converted(smollm2_gguf, tmp_path, Goal.FIDELITY)
    for candidate, wanted in (
        (prefill_logits(directory, prose), reference),
        (decode_logits(directory, prose[:64]), reference[:64]),
    ):
        assert divergence(wanted, candidate) <= 1e-4
        assert (candidate.argmax(-1) == wanted.argmax(-1)).mean() >= 0.99


def test_variant_for_fidelity_takes_prompts_of_which_no_row_is_wanted(
    smollm2_gguf: Path, tmp_path: Path, prose: list[int], reference: Floats
) -> None:
    session = opened(converted(smollm2_gguf, tmp_path, Goal.FIDELITY))
    session.prefill(0, tuple(prose[:32]), 0, last=False)
    session.prefill(0, tuple(prose[32:48]), 32, last=True)
    np.testing.assert_allclose(session.logits[0], reference[47], atol=0.01)


def test_real_model_is_described_as_it_is(smollm2_variant: Path) -> None:
    info = info_of(smollm2_variant)
    assert (info.name, info.architecture, info.num_layers, info.hidden_size) == ("cpu-int4", "llama", 30, 576)
    assert (info.num_heads, info.num_kv_heads, info.head_dim, info.vocab_size) == (9, 3, 64, 49152)
    assert info.parameter_count == 134_515_008
    assert info.holders["Q4_1"] == "augap"
    assert info.weight_bytes < 110 << 20
