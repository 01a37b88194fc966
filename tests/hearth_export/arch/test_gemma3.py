from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.readers.gguf import open_gguf
from hearth_export.spec import ModelSpec, QKNorm, read_spec
from hearth_export.translation import translate
from tests.hearth_export.decoder_header import spec_of
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf

TEXT = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 7}
VISION_4B = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}


def test_local_layers_have_a_rope_of_their_own_which_files_leave_out(tmp_path: Path) -> None:
    keys = {"attention.sliding_window": 512, "rope.freq_base": 1e6}
    spec = spec_of(tmp_path, "gemma3", {**keys, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0})
    assert spec.windows == (512,) * 5 + (0,)
    assert spec.layer_ropes == (1,) * 5 + (0,)
    everywhere, local = spec.ropes
    assert everywhere.inv_freq[:2] == pytest.approx((1 / 8, 1e6**-0.125 / 8))
    assert local.inv_freq[:2] == pytest.approx((1, 1e4**-0.125))
    assert spec.qk_norm is QKNorm.HEAD


def test_file_without_window_sees_everything_with_one_rope(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "gemma3")
    assert (spec.windows, spec.layer_ropes, len(spec.ropes)) == ((), (), 1)


def test_base_of_local_layers_is_read_where_a_file_has_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "gemma3", {"attention.sliding_window": 512, "rope.freq_base_swa": 100.0})
    assert spec.ropes[1].inv_freq[4] == pytest.approx(0.1)


def test_27b_scales_attention_by_its_width_a_head(tmp_path: Path) -> None:
    keys = {"block_count": 62, "attention.key_length": 32, "attention.value_length": 32}
    assert spec_of(tmp_path, "gemma3", keys).attention_scale == pytest.approx(1 / 4)


def test_file_of_ollama_is_read_as_ollama_reads_it(tmp_path: Path) -> None:
    keys = {"block_count": 34, "attention.sliding_window": 1024, "final_logit_softcapping": 30.0}
    keys |= {"rope.global.freq_base": 1e4, "rope.local.freq_base": 1e2}
    vision = [Tensor("v.blk.0.attn_q.weight", (2, 2)), Tensor("mm.mm_soft_emb_norm.weight", (2,))]
    spec = spec_of(tmp_path, "gemma3", keys, *vision)
    assert spec.logit_softcap == 0
    everywhere, local = spec.ropes
    assert everywhere.inv_freq[4] == pytest.approx(1e-2 / 8)
    assert local.inv_freq[4] == pytest.approx(1e-1)
    assert spec.read_tensors == {"v.blk.0.attn_q.weight", "mm.mm_soft_emb_norm.weight"}


def test_file_that_leaves_out_epsilon_and_bases_has_the_usual(tmp_path: Path) -> None:
    keys: dict[str, Meta] = {
        "block_count": 26,
        "context_length": 32768,
        "embedding_length": 64,
        "feed_forward_length": 128,
    }
    keys |= {"attention.head_count": 4, "attention.sliding_window": 512}
    metadata: dict[str, Meta] = {
        "general.architecture": "gemma3",
        **{f"gemma3.{key}": value for key, value in keys.items()},
    }
    path = write_gguf(tmp_path / "bare.gguf", metadata, [Tensor("token_embd.weight", (320, 64))])
    with open_gguf(path) as gguf:
        spec = read_spec(gguf)
    assert isinstance(spec, ModelSpec)
    assert spec.norm_epsilon == 1e-6
    everywhere, local = spec.ropes
    assert everywhere.inv_freq[4] == pytest.approx(1e-3)
    assert local.inv_freq[4] == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("keys", "tensors"),
    [({"attention.causal": False}, []), ({}, [Tensor("dense.0.weight", (2, 2))])],
    ids=["by its key", "by its tensors"],
)
def test_embedding_model_of_the_same_name_is_refused(
    tmp_path: Path, keys: dict[str, Meta], tensors: list[Tensor]
) -> None:
    with pytest.raises(UnsupportedModel, match="this Gemma 3 makes embeddings"):
        spec_of(tmp_path, "gemma3", keys, *tensors)


def test_text_config_of_a_checkpoint_with_vision_may_leave_out_what_is_usual() -> None:
    config = {"model_type": "gemma3", "text_config": {**VISION_4B, "rope_scaling": {"factor": 8.0, "type": "linear"}}}
    names = {"language_model.model.norm.weight", "language_model.model.layers.33.self_attn.q_norm.weight"}
    names |= {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "vision_tower.x.weight"}
    words = translate(config, names)
    keys = words.metadata
    assert keys["gemma3.attention.head_count"] == 8
    assert keys["gemma3.attention.key_length"] == 256
    assert keys["gemma3.rope.freq_base"] == 1e6
    assert keys["gemma3.rope.freq_base_swa"] == 1e4
    assert keys["gemma3.rope.scaling.factor"] == 8
    assert keys["gemma3.attention.sliding_window_pattern"] == [*[True] * 5, False] * 5 + [True] * 4
    (norm,) = words.tensors["blk.33.attn_q_norm.weight"]
    assert (norm.name, norm.added) == ("language_model.model.layers.33.self_attn.q_norm.weight", 1)
    (embedding,) = words.tensors["token_embd.weight"]
    assert embedding.added == 0
    assert "vision_tower.x.weight" in words.ignored
    assert "language_model.lm_head.weight" in words.ignored
    assert "output.weight" not in words.tensors


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model."])
def test_text_part_is_found_under_each_name_that_it_has(prefix: str) -> None:
    names = {f"{prefix}norm.weight", f"{prefix}embed_tokens.weight", "model.vision_tower.x", "multi_modal_projector.y"}
    words = translate(TEXT, names)
    assert words.tensors["token_embd.weight"][0].name == f"{prefix}embed_tokens.weight"
    assert set(words.tensors) == {"token_embd.weight", "output_norm.weight"}
    assert {"model.vision_tower.x", "multi_modal_projector.y"} <= words.ignored


def test_settings_of_each_kind_of_layer_are_followed() -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    }
    keys = translate({**TEXT, "rope_parameters": ropes}, {"model.norm.weight"}).metadata
    assert keys["gemma3.rope.freq_base"] == 5000
    assert keys["gemma3.rope.freq_base_swa"] == 50
    assert keys["gemma3.rope.scaling.factor"] == 2


@pytest.mark.parametrize(
    ("changes", "kind", "shown"),
    [
        ({"layer_types": ["full_attention"]}, BadCheckpoint, "layer_types is no list of a type for each of 7 layers"),
        ({"layer_types": ["chunked_attention"] * 7}, UnsupportedModel, "layer_types names 'chunked_attention'"),
        ({"sliding_window_pattern": 0}, BadCheckpoint, "sliding_window_pattern is 0"),
        ({"sliding_window": None}, BadCheckpoint, "sliding_window is null"),
        ({"hidden_activation": "silu"}, UnsupportedModel, 'hidden_activation is "silu"'),
        ({"use_bidirectional_attention": True}, UnsupportedModel, "use_bidirectional_attention is true"),
        ({"query_pre_attn_scalar": "much"}, BadCheckpoint, 'query_pre_attn_scalar is "much"'),
        ({"query_pre_attn_scalar": 0}, BadCheckpoint, "query_pre_attn_scalar is 0"),
        ({"tie_word_embeddings": False}, BadCheckpoint, "tensor lm_head.weight is missing"),
        ({"text_config": [1]}, BadCheckpoint, "text_config is no object"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, UnsupportedModel, "of type 'yarn'"),
    ],
)
def test_odd_config_is_refused_by_one_sentence(changes: dict[str, Any], kind: type[ExportError], shown: str) -> None:
    with pytest.raises(kind) as error:
        translate({**TEXT, **changes}, {"model.norm.weight"})
    assert str(error.value).startswith(("config.json: ", "tensor "))
    assert shown in str(error.value)
