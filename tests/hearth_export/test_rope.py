"""Rotary frequencies; the formulas that they are compared with are written out in `float_llama.FloatLlama.rotation`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.readers.gguf import open_gguf
from hearth_export.rope import read_rope
from hearth_export.spec import Rope
from tests.hearth_export.float_llama import FloatLlama
from tests.hearth_export.gguf_writer import Meta, Tensor
from tests.tiny import write_tiny_gguf

POSITIONS = 300
SCALING = "llama.rope.scaling"
EIGHT = np.array([1, 1.25, 1.5, 2, 4, 8, 8, 8], np.float32)


def rope_of(path: Path, extra: dict[str, Meta], *tensors: Tensor) -> Rope:
    write_tiny_gguf(path, num_layers=1, matrix_type="Q8_0", extra=extra, extra_tensors=tensors)
    with open_gguf(path) as gguf:
        return read_rope(gguf, "llama", 16, rows_interleaved=True)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"llama.rope.freq_base": 500000.0},
        {f"{SCALING}.type": "none", f"{SCALING}.factor": 4.0},
        {f"{SCALING}.type": "linear", f"{SCALING}.factor": 4.0},
        {f"{SCALING}.factor": 8.0},  # linear is the default
        {f"{SCALING}.type": "yarn", f"{SCALING}.factor": 4.0, f"{SCALING}.original_context_length": 128},
        {f"{SCALING}.type": "yarn", f"{SCALING}.factor": 16.0, "llama.context_length": 4096},
        {
            f"{SCALING}.type": "yarn",
            f"{SCALING}.factor": 4.0,
            f"{SCALING}.original_context_length": 2048,
            f"{SCALING}.yarn_beta_fast": 16.0,
            f"{SCALING}.yarn_beta_slow": 2.0,
            f"{SCALING}.attn_factor": 0.75,
        },
    ],
)
def test_angles_are_those_of_llama_cpp(tmp_path: Path, extra: dict[str, Meta]) -> None:
    rope = rope_of(tmp_path / "tiny.gguf", extra)
    assert_angles(rope, tmp_path / "tiny.gguf")


def test_factors_divide_the_frequencies(tmp_path: Path) -> None:
    rope = rope_of(tmp_path / "tiny.gguf", {}, Tensor("rope_freqs.weight", (8,), "F32", EIGHT))
    assert_angles(rope, tmp_path / "tiny.gguf")
    assert rope.inv_freq[7] == pytest.approx(10000 ** -(14 / 16) / 8)


def assert_angles(rope: Rope, path: Path) -> None:
    cos, sin = FloatLlama(path).rotation(POSITIONS, 16)
    angles = np.outer(np.arange(POSITIONS), rope.inv_freq)
    np.testing.assert_allclose(np.cos(angles) * rope.attention_scale, cos, atol=1e-5)
    np.testing.assert_allclose(np.sin(angles) * rope.attention_scale, sin, atol=1e-5)


def test_old_name_of_the_linear_factor_is_honoured(tmp_path: Path) -> None:
    rope = rope_of(tmp_path / "tiny.gguf", {"llama.rope.scale_linear": 2.0})
    assert rope.inv_freq[0] == 0.5


def test_factor_of_zero_stands_for_none(tmp_path: Path) -> None:
    assert rope_of(tmp_path / "tiny.gguf", {f"{SCALING}.factor": 0.0}).inv_freq[0] == 1


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ({"llama.rope.freq_base": 0.0}, "llama.rope.freq_base is 0.0"),
        ({"llama.rope.freq_base": 1.0}, "llama.rope.freq_base is 1.0"),
        ({"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base is nan"),
        ({"llama.rope.freq_base": float("inf")}, "llama.rope.freq_base is inf"),
        ({f"{SCALING}.factor": -1.0}, f"{SCALING}.factor is -1.0"),
        ({"llama.rope.scale_linear": float("nan")}, "llama.rope.scale_linear is nan"),
        ({f"{SCALING}.type": "yarn", f"{SCALING}.original_context_length": 0}, "original_context_length is 0"),
        ({f"{SCALING}.type": "yarn", f"{SCALING}.yarn_beta_fast": 0.0}, "yarn_beta_fast is 0.0"),
        ({f"{SCALING}.type": "yarn", f"{SCALING}.yarn_beta_slow": -1.0}, "yarn_beta_slow is -1.0"),
        ({f"{SCALING}.type": "yarn", f"{SCALING}.attn_factor": float("inf")}, "attn_factor is inf"),
    ],
)
def test_absurd_value_is_refused_naming_file_key_and_value(tmp_path: Path, extra: dict[str, Meta], shown: str) -> None:
    with pytest.raises(BadCheckpoint) as error:
        rope_of(tmp_path / "tiny.gguf", extra)
    assert str(tmp_path / "tiny.gguf") in str(error.value)
    assert shown in str(error.value)


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ({f"{SCALING}.type": "ntk"}, r"rope\.scaling\.type is 'ntk' \(known: none, linear, yarn, longrope\)"),
        ({f"{SCALING}.type": "yarn", f"{SCALING}.yarn_ext_factor": 0.5}, "yarn_ext_factor is not 1"),
    ],
)
def test_scaling_that_is_not_known_is_refused(tmp_path: Path, extra: dict[str, Meta], shown: str) -> None:
    with pytest.raises(UnsupportedModel, match=shown):
        rope_of(tmp_path / "tiny.gguf", extra)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("rope_freqs.weight", (4,), "F32", np.ones(4, np.float32)),
        Tensor("rope_freqs.weight", (8,), "F16", np.ones(8, np.float32)),
        Tensor("rope_freqs.weight", (8,), "F32", np.zeros(8, np.float32)),
        Tensor("rope_freqs.weight", (8,), "F32", np.full(8, np.nan, np.float32)),
    ],
    ids=["short", "type", "zero", "nan"],
)
def test_bad_factors_are_refused_by_name(tmp_path: Path, tensor: Tensor) -> None:
    with pytest.raises(BadCheckpoint, match=r"tiny\.gguf: rope_freqs\.weight"):
        rope_of(tmp_path / "tiny.gguf", {}, tensor)


LONG = [
    Tensor(f"rope_factors_{kind}.weight", (8,), "F32", factors)
    for kind, factors in (("short", EIGHT), ("long", 2 * EIGHT))
]


def test_longrope_has_frequencies_for_two_windows(tmp_path: Path) -> None:
    extra: dict[str, Meta] = {f"{SCALING}.type": "longrope", f"{SCALING}.original_context_length": 512}
    rope = rope_of(tmp_path / "tiny.gguf", {**extra, f"{SCALING}.attn_factor": 1.25}, *LONG)
    plain = 10000 ** -(np.arange(8) / 8)
    assert rope.inv_freq == pytest.approx(plain / EIGHT)
    assert rope.long_inv_freq == pytest.approx(plain / EIGHT / 2)
    assert (rope.attention_scale, rope.long_attention_scale, rope.short_context) == (1.25, 1.25, 512)


def test_longrope_without_factors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"is 'longrope', but rope_factors_long\.weight is missing"):
        rope_of(tmp_path / "tiny.gguf", {f"{SCALING}.type": "longrope"})


def test_only_the_values_that_turn_have_frequencies(tmp_path: Path) -> None:
    rope = rope_of(tmp_path / "tiny.gguf", {"llama.rope.dimension_count": 8})
    assert rope.inv_freq == pytest.approx([1, 0.1, 0.01, 0.001])


def test_yarn_ramp_may_begin_between_frequencies(tmp_path: Path) -> None:
    yarn: dict[str, Meta] = {f"{SCALING}.type": "yarn", f"{SCALING}.factor": 8.0, "llama.context_length": 4096}
    whole = rope_of(tmp_path / "whole.gguf", yarn)
    between = rope_of(tmp_path / "between.gguf", {**yarn, f"{SCALING}.yarn_truncate": False})
    assert whole.inv_freq[0] == between.inv_freq[0] == 1
    assert whole.inv_freq != between.inv_freq
