from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from hearth_export.errors import ExportError
from hearth_export.kvgraph import check_attention
from hearth_export.pipeline import DATA_FILE, GRAPH_FILE, INT8_KV_GRAPH_FILE
from hearth_export.readers.gguf import open_gguf
from hearth_export.spec import ModelSpec, read_spec
from hearth_export.verify import check_structure
from hearthd.store import variant
from hearthd.store.variant import read_variant


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
