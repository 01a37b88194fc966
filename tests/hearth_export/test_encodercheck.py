from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from hearth_export.checkpoint import open_checkpoint
from hearth_export.encodercheck import check_encoder
from hearth_export.errors import ExportError
from hearth_export.spec import EncoderSpec, read_spec
from tests.hearth_export.converted import converted
from tests.tiny_bert import random_encoder, write_tiny_bert


def spec_of(source: Path) -> EncoderSpec:
    with open_checkpoint(source) as checkpoint:
        spec = read_spec(checkpoint)
    assert isinstance(spec, EncoderSpec)
    return spec


def test_encoder_whose_attention_sees_padding_is_refused(tmp_path: Path) -> None:
    source = write_tiny_bert(tmp_path / "m.gguf")
    graph = converted(source, tmp_path / "variants") / "model.onnx"
    model = onnx.load(str(graph), load_external_data=False)
    branches = [attribute.g for node in model.graph.node if node.op_type == "If" for attribute in node.attribute]
    masked = [node for branch in branches for node in branch.node if len(node.input) > 3]
    assert masked
    for node in masked:
        del node.input[3:]
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"another vector beside a longer one \(cosine 0\.\d{4}"):
        check_encoder(graph, spec_of(source), 0)


def test_encoder_whose_sums_overflow_is_not_published(tmp_path: Path) -> None:
    tensors = random_encoder("bert")
    tensors["token_embd_norm.weight"] = np.full_like(tensors["token_embd_norm.weight"], 3e38)
    with pytest.raises(ExportError, match="not finite"):
        converted(write_tiny_bert(tmp_path / "m.gguf", tensors=tensors), tmp_path / "variants")
    assert not list((tmp_path / "variants").glob("cpu-*"))


def test_graph_that_does_not_run_is_refused(tmp_path: Path) -> None:
    source = write_tiny_bert(tmp_path / "m.gguf")
    graph = converted(source, tmp_path / "variants") / "model.onnx"
    graph.with_name("model.onnx.data").write_bytes(b"")
    with pytest.raises(ExportError, match="ONNX Runtime refuses the converted encoder"):
        check_encoder(graph, spec_of(source), 0)
