from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hearthd.errors import BadRequest
from hearthd.registry.goactions import check_template

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))
INPUTS, CASES = ROOT / "oracle" / "inputs.json", ROOT / "oracle" / "render_cases.jsonl"

pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")


def is_refused(text: str) -> bool:
    try:
        check_template(text)
    except BadRequest:
        return True
    return False


def test_templates_that_do_not_parse_are_refused_and_no_others() -> None:
    templates: dict[str, str] = json.loads(INPUTS.read_text())["templates"]
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    unsound = {case["template_name"] for case in cases if case.get("parse_error")}
    assert unsound
    assert {name for name, text in templates.items() if is_refused(text)} == unsound


def test_recorded_mistakes_are_named() -> None:
    for name, text, sentence in json.loads((ROOT / "template" / "cases_parse_error.json").read_text()):
        if "undefined template" in sentence and "{{define" in text:
            continue  # it is defined, by a call of itself only: that shows when it is run
        with pytest.raises(BadRequest, match=sentence):
            check_template(text)
        assert name
