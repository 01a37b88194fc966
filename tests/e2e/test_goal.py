"""A daemon that is told what models are converted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearthd.store.variant import VARIANT_FILE, VariantInfo, read_variant
from tests.e2e.daemon import Daemon, running


def variants(root: Path) -> dict[str, VariantInfo]:
    """Those of the only model, by name."""
    found = [read_variant(path.parent) for path in (root / "models").glob(f"variants/*/*/{VARIANT_FILE}")]
    return {info.name: info for info in found if info is not None}


def answer(daemon: Daemon) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": 4}
    response = daemon.post("/api/generate", model="tiny", stream=False, raw=True, prompt="Once", options=options)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize(
    ("goal", "made", "holder"),
    [("fidelity", "cpu-int4", "off"), ("prefill", "cpu-int8", "q8s"), ("float", "cpu-f32", "f32")],
)
def test_model_is_converted_for_the_goal_that_is_set_and_again_when_that_changes(
    tmp_path: Path, tiny_gguf: Path, goal: str, made: str, holder: str
) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        assert {name: info.goal for name, info in variants(tmp_path).items()} == {"cpu-int4": "bytes"}
        answer(daemon)
    with running(tmp_path, HEARTH_GOAL=goal) as daemon:
        assert answer(daemon)["eval_count"] == 4
        assert variants(tmp_path)[made].goal == goal
        assert holder in variants(tmp_path)[made].holders.values()
        written = {name: info.goal for name, info in variants(tmp_path).items()}
    with running(tmp_path, HEARTH_GOAL=goal) as daemon:  # what is there serves
        answer(daemon)
        assert {name: info.goal for name, info in variants(tmp_path).items()} == written
        assert "converting" not in daemon.log.rsplit("listens on", 1)[1]


def test_model_that_is_created_has_the_variant_before_it_is_asked(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path, HEARTH_GOAL="fidelity") as daemon:
        daemon.create("tiny", tiny_gguf)
        assert [info.goal for info in variants(tmp_path).values()] == ["fidelity"]
        answer(daemon)
        assert "converting" not in daemon.log
