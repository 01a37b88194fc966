"""Thoughts told from content as the reference's tests have it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hearthd.prompt.thinking import Stage, Tags, ThinkingParser

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance")) / "thinking"

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")

TAGS = Tags("<think>", "</think>")
STAGES = {
    "thinkingState_LookingForOpening": Stage.OPENING,
    "thinkingState_ThinkingStartedEatingWhitespace": Stage.BEFORE_THOUGHTS,
    "thinkingState_Thinking": Stage.THINKING,
    "thinkingState_ThinkingDoneEatingWhitespace": Stage.BEFORE_CONTENT,
    "thinkingState_ThinkingDone": Stage.CONTENT,
}


def load(file: str) -> list[Any]:
    path = ROOT / file
    return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.parametrize("case", load("TestThinkingStreaming.json"), ids=lambda case: str(case["desc"]))
def test_each_step_yields_what_is_recorded(case: dict[str, Any]) -> None:
    parser = ThinkingParser(TAGS)
    for step in case["steps"]:
        assert parser.feed(step["input"]) == (step["wantThinking"], step["wantContent"])
        assert parser.stage is STAGES[step["wantStateAfter"]["_ident"]]


@pytest.mark.parametrize("case", load("TestExtractThinking.json"), ids=lambda case: str(case["in"]))
def test_whole_answers_split_as_recorded(case: dict[str, Any]) -> None:
    parser = ThinkingParser(TAGS)
    parts = [parser.feed(case["in"]), parser.flush()]
    assert ["".join(part) for part in zip(*parts, strict=True)] == [case["wantThink"], case["wantContent"]]
