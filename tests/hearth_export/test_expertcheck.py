from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from hearth_export.errors import ExportError
from hearth_export.expertcheck import check_experts
from hearth_export.pipeline import GRAPH_FILE
from hearth_export.precision import Goal
from hearth_export.spec import Experts
from tests.hearth_export.converted import converted
from tests.hearth_export.flagged import architecture, flagged, write_flagged

__all__ = ["architecture"]
pytestmark = pytest.mark.usefixtures("architecture")

FEW = Experts(num=4, num_used=2, ffn_size=32, swiglu_limit=0.8, swiglu_alpha=1.7, swiglu_beta=1.0)
KINDS = [(goal, biases, normalised) for goal in (Goal.FLOAT, Goal.BYTES) for biases in (0, 1) for normalised in (0, 1)]


@pytest.mark.parametrize(("goal", "biases", "normalised"), KINDS)
def test_mixture_that_computes_something_else_is_refused(
    tmp_path: Path, goal: Goal, biases: bool, normalised: bool
) -> None:
    experts = replace(FEW, normalised=bool(normalised))
    source = write_flagged(tmp_path / "experts.gguf", flagged(experts=experts), matrix_type="Q4_0", biases=bool(biases))
    graph = converted(source, tmp_path / "variants", goal) / GRAPH_FILE
    check_experts(graph, experts)
    for changes in CHANGES:
        with pytest.raises(ExportError, match=r"MoE differs by .*nothing was published"):
            check_experts(graph, replace(experts, **changes))
    assert [path.name for path in graph.parent.iterdir() if path.name.startswith(".")] == []


CHANGES: list[dict[str, Any]] = [{"swiglu_limit": 0.4}, {"swiglu_alpha": 1.0}, {"swiglu_beta": 0.5}]


def test_mixture_that_onnx_runtime_refuses_is_refused(tmp_path: Path) -> None:
    source = write_flagged(tmp_path / "experts.gguf", flagged(experts=FEW), matrix_type="Q4_0")
    graph = converted(source, tmp_path / "variants") / GRAPH_FILE
    model = onnx.load(str(graph), load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "swiglu_fusion":
                attribute.i = 2
    onnx.save(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(ExportError, match="ONNX Runtime refuses"):
        check_experts(tmp_path / "bad.onnx", FEW)


def test_graph_without_experts_has_nothing_to_check(tmp_path: Path) -> None:
    graph = converted(write_flagged(tmp_path / "dense.gguf", flagged()), tmp_path / "variants") / GRAPH_FILE
    check_experts(graph, FEW)
