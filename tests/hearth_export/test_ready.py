from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hearth_export.checkpoint import open_checkpoint
from hearth_export.errors import ExportError
from hearth_export.pipeline import convert
from hearth_export.precision import Goal
from hearth_export.readers.onnx import ENDINGS, open_onnx
from hearth_export.source import describe
from hearthd.engine.bound import BoundGraph
from hearthd.engine.plain_encoder import PlainEncoder
from hearthd.engine.providers.provider import load_provider
from hearthd.store.variant import SOURCE_FILE, VariantInfo, read_source, read_variant
from tests.hearth_export.ready_graphs import (
    CONFIG,
    HIDDEN,
    POSITIONS,
    VOCAB,
    decoder,
    encoder,
    expected_logits,
    expected_states,
    write_repository,
    write_tokenizer_files,
)

DIGEST = "sha256:" + "5" * 64
IDS = [5, 9, 40, 41, 17, 120, 33]
ENCODER_CONFIG = {**CONFIG, "architectures": ["TinyModel"]}


def taken(source: Path, root: Path) -> tuple[Path, VariantInfo]:
    """The variant's directory and what it says of itself."""
    name = convert(source, DIGEST, root, Goal.BYTES, lambda *_: None)
    info = read_variant(root / name)
    assert info is not None
    return root / name, info


def bound(directory: Path, info: VariantInfo) -> BoundGraph:
    assert info.binding is not None
    return BoundGraph(load_provider("cpu", 1).open(directory / info.graph), info.binding)


def assert_refused(source: Path, root: Path, shown: str) -> None:
    with pytest.raises(ExportError, match=shown) as error:
        taken(source, root)
    assert str(source) in str(error.value)
    assert not root.exists() or not any(root.iterdir())


FORMS: dict[str, dict[str, Any]] = {
    "concatenated": {},
    "grouped": {"grouped": True},
    "without positions": {"positions": False},
    "names of genai": {"past": ("past_0_k", "past_0_v"), "present": ("present_0_k", "present_0_v"), "grouped": True},
    "values first": {"past": ("past.0.value", "past.0.key"), "present": ("present.0.value", "present.0.key")},
}


@pytest.mark.parametrize("form", FORMS)
def test_decoder_of_any_form_gives_its_logits_step_by_step(tmp_path: Path, form: str) -> None:
    fields = FORMS[form]
    if form == "values first":  # what is called value here holds keys: the pairs of names must not be mixed up
        fields = {"past": fields["past"][::-1], "present": fields["present"][::-1]}
    directory, info = taken(write_repository(tmp_path / "repo", {"model.onnx": decoder(**fields)}), tmp_path / "out")
    graph, states = bound(directory, info), None
    expected = expected_logits(IDS)
    for position, token in enumerate(IDS):
        row, states = graph.step([token], position, states)
        np.testing.assert_allclose(row, expected[position], atol=1e-4)


def test_variant_says_what_the_graph_and_the_config_say(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"onnx/model.onnx": decoder(grouped=True)})
    directory, info = taken(source, tmp_path / "out")
    assert (info.name, info.kind, info.architecture, info.source) == ("cpu-f32", "decoder", "tiny", DIGEST)
    assert (info.num_layers, info.num_kv_heads, info.head_dim, info.kv_dtype) == (1, 2, 16, "float32")
    assert (info.context_length, info.vocab_size, info.hidden_size) == (POSITIONS, VOCAB, HIDDEN)
    assert (info.bos_id, set(info.eos_ids)) == (1, {0, 2})
    assert info.binding is not None and info.binding.in_place and info.binding.is_batched
    assert (
        set(info.files)
        == {"model.onnx", "tokenizer.json"}
        == {path.name for path in directory.iterdir()} - {"variant.json"}
    )
    about = read_source(tmp_path / "out" / SOURCE_FILE)
    assert about is not None and about.format == "onnx" and about.file_type == "F32"
    assert about.chat_template is not None


def test_cache_whose_length_counts_is_not_kept_in_place(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"model.onnx": decoder(grouped=True, positions=False)})
    _, info = taken(source, tmp_path / "out")
    assert info.binding is not None and not info.binding.in_place


def test_best_graph_for_a_cpu_is_taken(tmp_path: Path) -> None:
    names = [f"onnx/model{ending}.onnx" for ending in ENDINGS]
    source = write_repository(tmp_path / "repo", {name: decoder() for name in reversed(names)})
    for name in names:
        assert open_onnx(source).graphs[0] == name
        (source / name).unlink()


def test_weights_in_files_beside_the_graph_come_along(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {})
    onnx.save_model(
        decoder(), str(source / "model.onnx"), save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    directory, info = taken(source, tmp_path / "out")
    assert set(info.files) == {"model.onnx", "model.onnx_data", "tokenizer.json"}
    assert info.weight_bytes == info.files["model.onnx"] + info.files["model.onnx_data"]
    row, _ = bound(directory, info).step(IDS, 0, None)
    np.testing.assert_allclose(row, expected_logits(IDS)[-1], atol=1e-4)


def test_files_of_a_store_are_linked_and_those_of_a_user_copied(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"blob": decoder()})
    (source / "model.onnx").symlink_to(source / "blob")
    directory, _ = taken(source, tmp_path / "linked")
    assert (directory / "model.onnx").samefile(source / "blob")
    (source / "model.onnx").unlink()
    (source / "blob").rename(source / "model.onnx")
    directory, _ = taken(source, tmp_path / "copied")
    assert not (directory / "model.onnx").samefile(source / "model.onnx")


def test_genai_folder_needs_no_other_config(tmp_path: Path) -> None:
    source = tmp_path / "repo"
    source.mkdir()
    onnx.save_model(decoder(grouped=True), str(source / "tiny.onnx"))
    write_tokenizer_files(source)
    model = {
        "type": "tiny", "context_length": POSITIONS, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": [2, 9],
        "decoder": {"filename": "tiny.onnx", "hidden_size": HIDDEN, "num_attention_heads": 2, "head_size": 16,
                    "num_hidden_layers": 1},
    }  # fmt: skip
    (source / "genai_config.json").write_text(json.dumps({"model": model}))
    _, info = taken(source, tmp_path / "out")
    assert (info.graph, info.architecture, info.context_length) == ("tiny.onnx", "tiny", POSITIONS)
    assert {2, 9} <= set(info.eos_ids)


@pytest.mark.parametrize(
    ("pooling", "take_row"), [("mean", None), ("cls", 0), ("lasttoken", -1)], ids=["mean", "cls", "last"]
)
def test_encoder_is_pooled_as_sentence_transformers_files_say(
    tmp_path: Path, pooling: str, take_row: int | None
) -> None:
    source = write_repository(tmp_path / "repo", {"onnx/model.onnx": encoder()}, ENCODER_CONFIG)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (source / "modules.json").write_text(json.dumps(modules))
    directory, info = taken(source, tmp_path / "out")
    assert info.kind == "encoder" and info.binding is not None
    session = PlainEncoder(directory, info, info.binding, load_provider("cpu", 1))
    texts = [IDS, IDS[:3], [7]]
    states = [expected_states(text) for text in texts]
    expected = [part.mean(0) if take_row is None else part[take_row] for part in states]
    np.testing.assert_allclose(session.vectors(texts), np.array(expected), rtol=1e-3, atol=1e-4)


def test_encoder_that_nobody_describes_is_pooled_by_the_mean_and_makes_embeddings(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"model.onnx": encoder()}, ENCODER_CONFIG)
    _, info = taken(source, tmp_path / "out")
    assert info.pooling == "mean"
    with open_checkpoint(source) as checkpoint:
        assert "tiny.pooling_type" in describe(checkpoint).metadata


def test_cut_off_graph_is_refused(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {"model.onnx": decoder()})
    whole = (source / "model.onnx").read_bytes()
    (source / "model.onnx").write_bytes(whole[: len(whole) // 2])
    assert_refused(source, tmp_path / "out", r"model\.onnx: is no ONNX model, or was cut off")


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"vision_config": {}}, "vision_config"),
        ({"is_encoder_decoder": True, "model_type": "t5"}, "'t5' is an encoder with a decoder"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings is many"),
    ],
)
def test_config_of_another_kind_of_model_is_refused_naming_the_field(
    tmp_path: Path, changed: dict[str, Any], shown: str
) -> None:
    source = write_repository(tmp_path / "repo", {"model.onnx": decoder()}, CONFIG | changed)
    assert_refused(source, tmp_path / "out", shown)


@pytest.mark.parametrize(
    ("graph", "shown"),
    [
        (decoder(extra_input="float[B,3,8,8] pixel_values, "), "pixel_values is of images"),
        (decoder(extra_input="float[B,4] mystery, "), "mystery .* is none that this version can fill"),
        (decoder(length="16"), "graphs of one fixed length"),
        (decoder(reads_past=False), "in pieces gives other logits than at once"),
        (encoder("logits"), "takes no keys and values"),
        (encoder("scores"), "outputs are scores; none of them is known"),
    ],
    ids=["images", "unknown input", "static", "cache not read", "no cache", "unknown output"],
)
def test_graph_that_cannot_be_served_is_refused_with_the_reason(
    tmp_path: Path, graph: onnx.ModelProto, shown: str
) -> None:
    assert_refused(write_repository(tmp_path / "repo", {"model.onnx": graph}), tmp_path / "out", shown)


def test_operator_and_opset_that_onnx_runtime_lacks_are_named(tmp_path: Path) -> None:
    graph = decoder()
    graph.graph.node[-1].op_type = "Transmogrify"
    assert_refused(
        write_repository(tmp_path / "operator", {"model.onnx": graph}), tmp_path / "out", "ONNX Runtime.*Transmogrify"
    )
    graph = decoder()
    graph.opset_import[0].version = 999
    assert_refused(
        write_repository(tmp_path / "opset", {"model.onnx": graph}), tmp_path / "out", "ONNX Runtime.*[Oo]pset"
    )


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    graph = decoder()
    head = next(tensor for tensor in graph.graph.initializer if tensor.name == "head")
    head.raw_data = np.full(tuple(head.dims), np.nan, np.float32).tobytes()
    assert_refused(write_repository(tmp_path / "repo", {"model.onnx": graph}), tmp_path / "out", "not finite")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/b", "..", ""])
def test_weights_elsewhere_on_the_machine_are_refused(tmp_path: Path, location: str) -> None:
    graph = decoder()
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    source = write_repository(tmp_path / "repo", {})
    (source / "model.onnx").write_bytes(graph.SerializeToString())
    (tmp_path / "secret").write_bytes(bytes(4096))
    assert_refused(source, tmp_path / "out", "no file beside it")


def test_missing_file_of_weights_is_refused_naming_it(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "repo", {})
    onnx.save_model(
        decoder(), str(source / "model.onnx"), save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    (source / "model.onnx_data").unlink()
    assert_refused(source, tmp_path / "out", "model.onnx_data with its weights is missing")


def test_parts_of_a_model_are_no_model(tmp_path: Path) -> None:
    graphs = {"onnx/embed_tokens.onnx": decoder(), "onnx/vision_encoder.onnx": decoder()}
    assert_refused(
        write_repository(tmp_path / "repo", graphs),
        tmp_path / "out",
        r"none of the graphs is a whole model.*embed_tokens",
    )


def test_rows_of_a_ready_graph_are_not_given(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_repository(tmp_path / "repo", {"model.onnx": decoder()}))
    with pytest.raises(ExportError, match="served as it is"):
        checkpoint.rows("head", 0, 1)
