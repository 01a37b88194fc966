from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hearth_export.errors import ExportError
from hearth_export.kvgraph import check_attention
from hearth_export.pipeline import DATA_FILE, GRAPH_FILE, INT8_KV_GRAPH_FILE
from hearth_export.precision import Goal
from hearth_export.readers.gguf import open_gguf
from hearth_export.spec import ModelSpec, QKNorm, read_spec
from hearth_export.verify import check_structure
from hearthd.engine.session import open_session
from hearthd.store import variant
from hearthd.store.variant import read_variant
from tests.hearth_export.converted import converted, info_of
from tests.hearth_export.flagged import TOKENS, architecture, flagged, form_of, turning, write_flagged
from tests.hearth_export.float_decoder import FloatDecoder

__all__ = ["architecture"]


def loaded(path: Path) -> onnx.ModelProto:
    return onnx.load(str(path), load_external_data=False)


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}


def test_the_second_graph_differs_in_its_cache_and_has_scales(tiny_variant: Path) -> None:
    floats, codes = types(loaded(tiny_variant / GRAPH_FILE)), types(loaded(tiny_variant / INT8_KV_GRAPH_FILE))
    scales = {variant.scale_name(layer, kind) for layer in range(2) for kind in ("key", "value")}
    assert codes.keys() - floats.keys() == scales
    assert {codes[name] for name in scales} == {TensorProto.FLOAT}
    changed = {name for name in floats if floats[name] != codes[name]}
    assert changed == {name for name in floats if name.startswith(("past.", "present."))}
    assert {codes[name] for name in changed} == {TensorProto.INT8}


def test_both_graphs_share_every_weight(tiny_variant: Path) -> None:
    floats, codes = loaded(tiny_variant / GRAPH_FILE), loaded(tiny_variant / INT8_KV_GRAPH_FILE)
    assert list(floats.graph.initializer) == list(codes.graph.initializer)
    info = read_variant(tiny_variant)
    assert info is not None
    assert info.kv_graphs == {"q8_0": INT8_KV_GRAPH_FILE}
    assert info.files[INT8_KV_GRAPH_FILE] == (tiny_variant / INT8_KV_GRAPH_FILE).stat().st_size


def test_a_second_graph_that_onnx_runtime_refuses_is_refused(tiny_variant: Path, tmp_path: Path) -> None:
    size = (tiny_variant / DATA_FILE).stat().st_size
    check_structure(tiny_variant / INT8_KV_GRAPH_FILE, size)
    model = loaded(tiny_variant / INT8_KV_GRAPH_FILE)
    for value in model.graph.input:
        if value.name.endswith(".scale"):
            value.type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(ExportError, match="ONNX Runtime refuses"):
        check_structure(tmp_path / "bad.onnx", size)


def changed(tiny_variant: Path, tmp_path: Path, attribute: str, value: int) -> Path:
    model = loaded(tiny_variant / INT8_KV_GRAPH_FILE)
    for node in model.graph.node:
        for candidate in node.attribute:
            if candidate.name == attribute:
                candidate.i = value
    onnx.save(model, str(tmp_path / "bad.onnx"))
    return tmp_path / "bad.onnx"


@pytest.mark.parametrize(("attribute", "value"), [("do_rotary", 0), ("kv_cache_bit_width", 3)])
def test_a_second_graph_that_attends_in_another_way_is_refused(
    tiny_variant: Path, tiny_gguf: Path, tmp_path: Path, attribute: str, value: int
) -> None:
    with open_gguf(tiny_gguf) as gguf:
        spec = read_spec(gguf)
    assert isinstance(spec, ModelSpec)
    check_attention(tiny_variant / GRAPH_FILE, tiny_variant / INT8_KV_GRAPH_FILE, spec)
    with pytest.raises(ExportError, match=r"attention over int8|ONNX Runtime refuses"):
        check_attention(tiny_variant / GRAPH_FILE, changed(tiny_variant, tmp_path, attribute, value), spec)


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize(
    "changes",
    [
        {"windows": (5, 0), "attention_softcap": 2.0},
        {"sinks": True, "windows": (5, 0)},
        {"ropes": (turning(16),), "layer_ropes": (0, -1)},
        {"ropes": (turning(32), turning(16)), "layer_ropes": (0, 1), "qk_norm": QKNorm.HEAD},
        {"attention_scale": 1.0, "num_kv_heads": 1},
    ],
)
def test_every_kind_of_attention_works_over_int8_too(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = flagged(**changes)
    source = write_flagged(tmp_path / "kinds.gguf", spec)
    directory = converted(source, tmp_path / "variants", Goal.FLOAT)
    form = form_of(spec, "q8_0")
    session = open_session(directory, info_of(directory), num_ctx=64, num_threads=2, form=form)
    want = FloatDecoder(spec, source).logits(TOKENS)
    got = [session.evaluate(TOKENS[:9]).copy()]
    for position in range(9, len(TOKENS)):
        session.decode((TOKENS[position],), (position,))
        got.append(session.logits[0].copy())
    assert np.linalg.norm(np.stack(got) - want[8:]) / np.linalg.norm(want[8:]) < 0.1
