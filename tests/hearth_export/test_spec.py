from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.readers.gguf import open_gguf
from hearth_export.spec import ModelSpec, read_spec
from tests.hearth_export.gguf_writer import Meta
from tests.tiny import write_tiny_gguf


def spec_of(path: Path, extra: dict[str, Meta] | None = None, **arguments: Any) -> ModelSpec:
    with open_gguf(write_tiny_gguf(path, num_layers=1, extra=extra, **arguments)) as gguf:
        spec = read_spec(gguf)
    assert isinstance(spec, ModelSpec)
    return spec


def test_llama_is_read_from_its_metadata(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "tiny.gguf")
    assert (spec.architecture, spec.num_layers, spec.hidden_size, spec.ffn_size) == ("llama", 1, 64, 128)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.vocab_size) == (4, 2, 16, 265)
    assert (spec.attention_size, spec.kv_size, spec.tied_head) == (64, 32, True)
    assert spec.norm_epsilon == pytest.approx(1e-5)
    assert spec.ropes[0].rows_interleaved


def test_head_of_its_own_is_seen(tmp_path: Path) -> None:
    assert not spec_of(tmp_path / "tiny.gguf", untied_type="Q8_0").tied_head


def test_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf: general\.architecture is 'mamba'.*known: .*llama"):
        spec_of(tmp_path / "tiny.gguf", {"general.architecture": "mamba"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0),
        ("block_count", 1 << 31),
        ("embedding_length", (1 << 32) - 1),
        ("feed_forward_length", 0),
        ("context_length", 1 << 30),
        ("attention.head_count", 0),
        ("attention.head_count", 1 << 30),
        ("attention.head_count", 5),
        ("attention.head_count_kv", 3),
        ("attention.head_count_kv", -2),
        ("attention.layer_norm_rms_epsilon", -1.0),
        ("attention.layer_norm_rms_epsilon", float("nan")),
        ("attention.layer_norm_rms_epsilon", "small"),
    ],
)
def test_absurd_value_is_refused_naming_file_key_and_value(tmp_path: Path, key: str, value: Meta) -> None:
    with pytest.raises(BadCheckpoint) as error:
        spec_of(tmp_path / "tiny.gguf", {f"llama.{key}": value})
    for part in (str(tmp_path / "tiny.gguf"), f"llama.{key.split('.')[0]}", str(value)):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope.dimension_count", 8), ("attention.value_length", 32), ("attention.key_length", 24)],
)
def test_variation_that_cannot_be_converted_is_refused_by_its_value(tmp_path: Path, key: str, value: int) -> None:
    with pytest.raises(UnsupportedModel, match=str(value)):
        spec_of(tmp_path / "tiny.gguf", {f"llama.{key}": value})
