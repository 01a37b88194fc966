"""Tool calls found as the reference's tests have it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.prompt.conversation import Tool, ToolCall, ToolFunction
from hearthd.prompt.speech import Speech, of_go, tool_parser
from hearthd.prompt.toolcalls.dialect import ToolParser, dialect_of
from hearthd.prompt.toolcalls.marks import Marks

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")

TAGS = {
    "qwen": "<tool_call>",
    "deepseek": "<|tool▁calls▁begin|>",
    "json": "{",
    "mistral": "[TOOL_CALLS] [",
    "list": "[",
}


def load(file: str, empty: Any) -> Any:
    path = ROOT / file
    return json.loads(path.read_text()) if path.exists() else empty


def tools_named(*names: str) -> list[Tool]:
    return [Tool(function=ToolFunction(name=name)) for name in names]


def tagged(tag: str, *names: str) -> ToolParser:
    return dialect_of("tagged")(tools_named(*names), tag)


def content(case: dict[str, Any], key: str = "buffer") -> str:
    return case[key] or ""  # an empty list stands for no bytes


PARSER = load("tools/TestParser.json", {"cases": [], "tools": [], "templates": {}})
NAMES = [tool["Function"]["Name"] for tool in PARSER["tools"]]


def wanted(case: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    functions = [call["Function"] for call in case.get("calls") or []]
    return [(function["Index"], function["Name"], dict(*function["Arguments"]["args"])) for function in functions]


def fed(parser: ToolParser, inputs: list[str]) -> tuple[str, list[ToolCall]]:
    parts = [parser.feed(text) for text in inputs]
    return "".join(text for text, _ in parts), [call for _, calls in parts for call in calls]


def facts(calls: list[ToolCall]) -> list[tuple[int, str, dict[str, Any]]]:
    return [(call.index, call.name, call.arguments) for call in calls]


@pytest.mark.parametrize("case", PARSER["cases"], ids=lambda case: str(case["name"]))
def test_the_tagged_dialect_parses_as_recorded(case: dict[str, Any]) -> None:
    text, calls = fed(tagged(TAGS[case["tmpl"]["_ident"]], *NAMES), case["inputs"])
    assert (text, facts(calls)) == (case["content"], wanted(case))
    assert all(list(call.arguments) == list(want[2]) for call, want in zip(calls, wanted(case), strict=True))


@pytest.mark.parametrize("case", PARSER["cases"], ids=lambda case: str(case["name"]))
def test_the_template_s_own_dialect_finds_the_recorded_calls(case: dict[str, Any]) -> None:
    kind = case["tmpl"]["_ident"]
    parser = tool_parser(of_go(PARSER["templates"][kind], None, TAGS[kind]), tools_named(*NAMES))
    assert parser is not None
    assert facts(fed(parser, case["inputs"])[1]) == wanted(case)


def text_of(value: Any) -> Any:
    """What a recorded Go expression stands for."""
    match value:
        case {"_call": "strings.Repeat", "args": [str() as text, int() as count]}:
            return text * count
        case {"_expr": parts}:
            return "".join(text_of(part) for part in parts)
        case dict():
            return {key: text_of(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("case", load("tools/TestFindArguments.json", []), ids=lambda case: str(case["name"]))
def test_arguments_are_found_as_recorded(case: dict[str, Any]) -> None:
    text = text_of(case["buffer"] or "")
    named = re.search(r'"name": "(\w+)"', text)
    name = named.group(1) if named else case.get("tool", "get_temperature")
    head = "" if name in text else name
    calls = tagged("<call>", name).feed("<call>" + head + text)[1]
    assert (calls[0].arguments if calls else None) == text_of(case["want"])


@pytest.mark.parametrize("case", load("tools/TestFindTag.json", []), ids=lambda case: str(case["name"]))
def test_tags_are_found_as_recorded(case: dict[str, Any]) -> None:
    at, mark = Marks([case["tag"]]).find(content(case))
    assert (at, mark == case["tag"]) == (case["i"], case["found"])


@pytest.mark.parametrize("case", load("tools/TestDone.json", []), ids=lambda case: str(case["name"]))
def test_a_bracket_that_closes_without_a_call_is_released(case: dict[str, Any]) -> None:
    assert tagged(case["tag"], "other").feed(content(case))[0] == (content(case) if case["want"] else "")


@pytest.mark.parametrize("case", load("tools/TestContent.json", []), ids=lambda case: str(case["name"]))
def test_the_end_releases_what_is_recorded(case: dict[str, Any]) -> None:
    parser = tagged(case["tag"], "f")
    calls = [call for _ in range(case["n"]) for call in parser.feed('{"name": "f", "arguments": {}}')[1]]
    parts = [parser.feed(content(case, "content")), parser.flush()]
    assert len(calls) == case["n"]
    assert "".join(text for text, _ in parts) == case["want"]


OLD = load("tools_templates/parse_cases_v0.5.7.json", {"cases": [], "expected_calls": []})
FACTS = load("oracle/template_facts.json", {})


def speech_of(model: str) -> Speech:
    text = (ROOT / "tools_templates" / f"{model}.gotmpl").read_text()
    return of_go(text, None, FACTS[f"tools/{model}"]["tool_tag"])


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(("model", "text", "is_call"), OLD["cases"])
def test_answers_of_known_models_hold_the_recorded_calls(model: str, text: str, is_call: bool, size: int) -> None:
    tools = msgspec.json.decode((ROOT / "tools_templates" / "tools.json").read_bytes(), type=list[Tool])
    parser = tool_parser(speech_of(model), tools)
    assert parser is not None
    released, calls = fed(parser, [text[at : at + size] for at in range(0, len(text), size)])
    rest, last = parser.flush()
    found = [{"name": call.name, "arguments": call.arguments} for call in calls + last]
    assert found == (OLD["expected_calls"] if is_call else [])
    if not is_call:
        assert released + rest == text
