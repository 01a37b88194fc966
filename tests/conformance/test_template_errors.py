from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hearthd.prompt.gotemplate.errors import TemplateError
from hearthd.prompt.gotemplate.parser import parse

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))
INPUTS, CASES = ROOT / "oracle" / "inputs.json", ROOT / "oracle" / "render_cases.jsonl"

pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")


def refusal(text: str) -> str:
    try:
        parse(text)
    except TemplateError as error:
        return str(error)
    return ""


def test_templates_that_do_not_parse_are_refused_in_the_recorded_words_and_no_others() -> None:
    templates: dict[str, str] = json.loads(INPUTS.read_text())["templates"]
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    unsound = {case["template_name"]: case["parse_error"] for case in cases if case.get("parse_error")}
    assert unsound
    recorded = {case["template_name"] for case in cases}
    assert {name: said for name in recorded if (said := refusal(templates[name]))} == unsound


def test_recorded_mistakes_are_named() -> None:
    for name, text, sentence in json.loads((ROOT / "template" / "cases_parse_error.json").read_text()):
        assert sentence in refusal(text), name
