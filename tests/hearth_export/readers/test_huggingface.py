from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_export.checkpoint import open_checkpoint
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, dequantize, float_rows
from hearth_export.readers.huggingface import HuggingFace, open_huggingface
from hearth_export.readers.safetensors import open_shards
from hearth_export.readers.values import MetaArray
from hearth_export.source import describe
from hearth_export.translation import Source, Translation, translate
from tests.hearth_export.safetensors_writer import LLAMA, Stored, Tensors, llama_tensors, write_repository
from tests.tiny import CHAT_TEMPLATE

MATRIX = np.arange(24, dtype=np.float32).reshape(6, 4)
CUBE = np.arange(48, dtype=np.float32).reshape(2, 6, 4)


def llama(path: Path, shards: int = 1, dtype: str = "F32", **changes: Any) -> Path:
    return write_repository(path / "model", {**LLAMA, **changes}, llama_tensors(dtype), shards)


def translated(path: Path, tensors: Tensors, *sources: Source, stacked: bool = False) -> HuggingFace:
    """A checkpoint with one tensor "made" of the sources."""
    write_repository(path, {}, tensors)
    translation = Translation(
        "llama",
        {},
        {"made": sources},
        stacked=frozenset({"made"} if stacked else ()),
        ignored=frozenset(tensors),
    )
    return HuggingFace(path, {}, translation, open_shards(path))


def made(path: Path, tensors: Tensors, *sources: Source, stacked: bool = False) -> Any:
    """What it holds, in the shape that the checkpoint tells; read at once and row by row."""
    checkpoint = translated(path, tensors, *sources, stacked=stacked)
    info = checkpoint.tensor("made")
    whole = checkpoint.rows("made", 0, info.num_rows)
    assert whole.nbytes == info.nbytes
    single = np.concatenate([checkpoint.rows("made", row, row + 1) for row in range(info.num_rows)])
    np.testing.assert_array_equal(single, whole)
    return float_rows(whole, info.type).reshape(info.shape)


# -- a whole repository ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_repository_looks_like_a_gguf_file(tmp_path: Path, shards: int) -> None:
    stored = llama_tensors()
    with open_checkpoint(llama(tmp_path, shards)) as checkpoint:
        assert (checkpoint.format, checkpoint.path.name) == ("safetensors", "model")
        assert checkpoint.require("general.architecture", str) == "llama"
        assert checkpoint.require("llama.block_count", int) == 2
        assert checkpoint.require("llama.context_length", int) == 128
        assert checkpoint.require("llama.attention.head_count_kv", int) == 2
        assert len(checkpoint.tensors) == len(stored)
        info = checkpoint.tensor("blk.1.ffn_down.weight")
        assert (info.shape, info.type, info.nbytes) == ((64, 96), "F32", 64 * 96 * 4)
        rows = float_rows(checkpoint.rows("blk.1.ffn_down.weight", 3, 9), "F32")
        np.testing.assert_array_equal(rows, stored["model.layers.1.mlp.down_proj.weight"].values[3:9])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_floats_stay_what_they_are(tmp_path: Path, dtype: str) -> None:
    with open_checkpoint(llama(tmp_path, dtype=dtype)) as checkpoint:
        info = checkpoint.tensor("token_embd.weight")
        rows = checkpoint.rows(info.name, 0, 40)
        assert (info.type, info.type_id, rows.shape) == (dtype, BLOCK_TYPES[dtype].type_id, (40, 128))
        expected = llama_tensors()["model.embed_tokens.weight"].values
        np.testing.assert_allclose(float_rows(rows, dtype), expected, rtol=1e-2, atol=1e-7)


def test_released_rows_can_be_read_again(tmp_path: Path) -> None:
    with open_checkpoint(llama(tmp_path)) as checkpoint:
        before = checkpoint.rows("output.weight", 0, 40).copy()
        checkpoint.release("output.weight")
        checkpoint.release_all()
        np.testing.assert_array_equal(checkpoint.rows("output.weight", 0, 40), before)


def test_rows_outside_a_tensor_are_an_error(tmp_path: Path) -> None:
    with open_checkpoint(llama(tmp_path)) as checkpoint, pytest.raises(IndexError, match=r"rows 39\.\.41"):
        checkpoint.rows("output.weight", 39, 41)


def test_tied_head_is_read_from_the_embedding(tmp_path: Path) -> None:
    with open_checkpoint(llama(tmp_path, tie_word_embeddings=True)) as checkpoint:
        assert "output.weight" not in checkpoint.tensors


def test_checkpoint_saved_without_its_head_is_known(tmp_path: Path) -> None:
    tensors = {name.removeprefix("model."): tensor for name, tensor in llama_tensors().items() if "head" not in name}
    with open_checkpoint(write_repository(tmp_path / "model", LLAMA, tensors)) as checkpoint:
        assert checkpoint.tensor("blk.0.attn_q.weight").shape == (64, 64)
        assert "output.weight" not in checkpoint.tensors


def test_buffers_of_old_versions_are_read_over(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": Stored(np.ones(8, np.float32))}
    with open_checkpoint(write_repository(tmp_path / "model", LLAMA, tensors)) as checkpoint:
        assert len(checkpoint.tensors) == len(tensors) - 1


def test_repository_is_described(tmp_path: Path) -> None:
    files = {
        "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}).encode(),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
    }
    directory = write_repository(tmp_path / "llama-tiny", LLAMA, llama_tensors("BF16"), files=files)
    with open_checkpoint(directory) as checkpoint:
        about = describe(checkpoint)
    assert (about.format, about.architecture, about.file_type) == ("safetensors", "llama", "BF16")
    assert (about.context_length, about.embedding_length) == (128, 64)
    assert (about.bos_token, about.eos_token, about.chat_template) == ("<s>", "</s>", CHAT_TEMPLATE)
    assert about.parameter_count == sum(tensor.values.size for tensor in llama_tensors().values())
    assert about.metadata["general.name"] == "llama-tiny"


def test_files_beside_the_tensors_can_be_read(tmp_path: Path) -> None:
    with open_checkpoint(llama(tmp_path)) as checkpoint:
        raw = checkpoint.read_file("config.json")
        assert raw is not None and json.loads(raw) == LLAMA
        assert checkpoint.read_file("tokenizer.json") is None
        assert checkpoint.read_file("config.json/inside") is None


# -- what sources make -------------------------------------------------------------------------------------------------


def test_rows_of_several_tensors_follow_each_other(tmp_path: Path) -> None:
    found = made(tmp_path, {"a": Stored(MATRIX), "b": Stored(-MATRIX)}, Source("b", 4), Source("a", 1, 6, 2))
    np.testing.assert_array_equal(found, np.concatenate([-MATRIX[4:], MATRIX[1:6:2]]))


def test_pieces_of_vectors_make_one_row(tmp_path: Path) -> None:
    vector = MATRIX.reshape(-1)
    found = made(tmp_path, {"a": Stored(vector)}, Source("a", 20), Source("a", 0, 8, 2))
    np.testing.assert_array_equal(found, np.concatenate([vector[20:], vector[0:8:2]]))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_added_to_a_vector_makes_it_float32(tmp_path: Path, dtype: str) -> None:
    vector = np.array([0, 0.5, -2, 2**-7], np.float32)
    checkpoint = translated(tmp_path, {"a": Stored(vector, dtype)}, Source("a", added=1.0))
    assert checkpoint.tensor("made").type == "F32"
    np.testing.assert_array_equal(float_rows(checkpoint.rows("made", 0, 1), "F32")[0], vector + 1)


def test_experts_are_stacked(tmp_path: Path) -> None:
    tensors = {"a": Stored(MATRIX), "b": Stored(-MATRIX)}
    np.testing.assert_array_equal(
        made(tmp_path, tensors, Source("b"), Source("a"), stacked=True), np.stack([-MATRIX, MATRIX])
    )


def test_rows_of_three_dimensions_count_through(tmp_path: Path) -> None:
    found = made(tmp_path, {"a": Stored(CUBE)}, Source("a", 1, 6, 2), Source("a", 7, 12, 2), stacked=True)
    np.testing.assert_array_equal(found, CUBE[:, 1::2])


def test_turned_matrices_are_read_by_their_columns(tmp_path: Path) -> None:
    turned = CUBE.swapaxes(1, 2)
    sources = [Source("a", 6 * expert + 1, 6 * expert + 6, 2, transposed=True) for expert in range(2)]
    np.testing.assert_array_equal(made(tmp_path, {"a": Stored(turned)}, *sources, stacked=True), CUBE[:, 1::2])


def test_values_of_single_experts_are_rows(tmp_path: Path) -> None:
    sources = [Source("a", 4 * expert, 4 * expert + 4, 2, flat=True) for expert in range(6)]
    np.testing.assert_array_equal(made(tmp_path, {"a": Stored(MATRIX)}, *sources, stacked=True), MATRIX[:, 0::2])


def test_mxfp4_keeps_every_weight(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (2, 6, 3, 16), np.uint8)
    scales = generator.integers(120, 134, (2, 6, 3), np.uint8)
    tensors = {"a_blocks": Stored(blocks, "U8"), "a_scales": Stored(scales, "U8")}
    sources = [Source("a_blocks", 6 * expert + 1, 6 * expert + 6, 2, scales="a_scales") for expert in range(2)]
    checkpoint = translated(tmp_path, tensors, *sources, stacked=True)
    info = checkpoint.tensor("made")
    assert (info.type, info.shape) == ("MXFP4", (2, 3, 96))
    found = dequantize(BLOCK_TYPES["MXFP4"].unpack(checkpoint.rows("made", 0, 6)))
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    weights = values[np.stack([blocks & 15, blocks >> 4], -1)].reshape(2, 6, 3, 32) * 2.0 ** (scales[..., None] - 127.0)
    np.testing.assert_array_equal(found.reshape(2, 3, 96), weights.reshape(2, 6, 96)[:, 1::2].astype(np.float32))


# -- refusals ----------------------------------------------------------------------------------------------------------


def assert_refused(path: Path, kind: type[Exception], shown: str) -> None:
    with pytest.raises(kind, match=shown) as error:
        open_huggingface(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, "missing"),
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"a": "\xff"}', "no JSON"),
        (b"[" * 9999, "no"),
    ],
)
def test_config_that_cannot_be_understood_is_refused(tmp_path: Path, raw: bytes | None, shown: str) -> None:
    path = llama(tmp_path)
    (path / "config.json").unlink()
    if raw is not None:
        (path / "config.json").write_bytes(raw)
    assert_refused(path, BadCheckpoint, rf"config\.json.*{shown}")


def test_unknown_model_type_is_refused_naming_the_other_route(tmp_path: Path) -> None:
    assert_refused(llama(tmp_path, model_type="mamba"), UnsupportedModel, "model_type is 'mamba'.*Optimum")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_weights_quantized_already_are_refused_naming_the_method(tmp_path: Path, method: str) -> None:
    path = llama(tmp_path, quantization_config={"quant_method": method})
    assert_refused(path, UnsupportedModel, f"quantized already.*'{method}'.*original checkpoint, or a GGUF file")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("hidden_size", None, "hidden_size is missing"),
        ("hidden_size", "64", 'hidden_size is "64" where a positive whole number'),
        ("num_attention_heads", 0, "num_attention_heads is 0"),
        ("num_hidden_layers", 2.5, r"num_hidden_layers is 2\.5"),
        ("num_hidden_layers", 1 << 40, "num_hidden_layers is 1099511627776"),
        ("num_hidden_layers", True, "num_hidden_layers is true"),
        ("vocab_size", [], r"vocab_size is \[\]"),
        ("rms_norm_eps", "small", 'rms_norm_eps is "small" where a number is expected'),
        ("tie_word_embeddings", 3, "tie_word_embeddings is 3 where true or false is expected"),
    ],
)
def test_absurd_value_of_the_config_is_refused_naming_it(tmp_path: Path, key: str, value: Any, shown: str) -> None:
    assert_refused(llama(tmp_path, **{key: value}), BadCheckpoint, rf"config\.json: {shown}")


def test_activation_that_is_not_known_is_refused(tmp_path: Path) -> None:
    assert_refused(llama(tmp_path, hidden_act="relu2"), UnsupportedModel, 'hidden_act is "relu2"; only "silu"')


def test_missing_head_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["lm_head.weight"]
    path = write_repository(tmp_path / "model", LLAMA, tensors)
    assert_refused(path, BadCheckpoint, r"lm_head\.weight is missing")


def test_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"model.layers.0.self_attn.q_norm.weight": Stored(np.ones(16, np.float32))}
    path = write_repository(tmp_path / "model", LLAMA, tensors)
    assert_refused(path, UnsupportedModel, r"q_norm\.weight has no place in a model of model_type 'llama'.*Optimum")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "F64"])
def test_dtype_that_cannot_be_converted_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = llama_tensors() | {name: Stored(np.zeros((96, 64), np.float32), dtype)}
    path = write_repository(tmp_path / "model", LLAMA, tensors)
    assert_refused(path, UnsupportedModel, rf"{name} is stored as {dtype}; F32, F16 and BF16 can be converted")


@pytest.mark.parametrize(
    ("sources", "shown"),
    [
        ((Source("gone"),), "tensor gone is missing"),
        ((Source("a", 2, 7),), r"tensor a has the shape \(6, 4\), in which there are no rows 2 to 7"),
        ((Source("a", 3, 3),), "no rows 3 to 3"),
        ((Source("a"), Source("wide")), r"wide is F32 \(6, 5\), which does not go with a"),
        ((Source("a"), Source("half")), "half is F16"),
        ((Source("a", scales="gone"),), "tensor gone is missing"),
        ((Source("a", scales="half"),), "MXFP4 takes bytes"),
    ],
)
def test_sources_that_do_not_fit_are_refused_naming_the_tensor(
    tmp_path: Path, sources: tuple[Source, ...], shown: str
) -> None:
    tensors = {"a": Stored(MATRIX), "wide": Stored(np.zeros((6, 5), np.float32)), "half": Stored(MATRIX, "F16")}
    with pytest.raises(BadCheckpoint, match=shown):
        translated(tmp_path, tensors, *sources)


def test_key_that_a_config_does_not_say_is_named(tmp_path: Path) -> None:
    with open_checkpoint(llama(tmp_path)) as checkpoint:
        with pytest.raises(BadCheckpoint, match=r"does not say llama\.gone"):
            checkpoint.require("llama.gone", int)
        with pytest.raises(BadCheckpoint, match=r"tensor blk\.9\.attn_q\.weight is missing"):
            checkpoint.tensor("blk.9.attn_q.weight")


def test_lists_become_arrays_of_the_metadata(tmp_path: Path) -> None:
    write_repository(tmp_path, {}, {"a": Stored(MATRIX)})
    lists: dict[str, Any] = {"whole": [1, 2], "flags": [True, False], "real": [0.5]}
    translation = replace(Translation("llama", lists, {}), ignored=frozenset({"a"}), vectors={"computed": [1.0, 2.5]})
    with HuggingFace(tmp_path, {}, translation, open_shards(tmp_path)) as checkpoint:
        found = {key: checkpoint.require(key, MetaArray) for key in lists}
        assert {key: array.tolist() for key, array in found.items()} == lists
        assert {key: array.element for key, array in found.items()} == {
            "whole": "int32",
            "flags": "bool",
            "real": "float32",
        }
        assert float_rows(checkpoint.rows("computed", 0, 1), "F32").tolist() == [[1.0, 2.5]]
        checkpoint.release("computed")


def test_translation_names_what_was_translated() -> None:
    translation = translate(LLAMA, set(llama_tensors()))
    assert translation.architecture == "llama"
    assert translation.tensors["blk.1.attn_k.weight"] == (Source("model.layers.1.self_attn.k_proj.weight"),)
