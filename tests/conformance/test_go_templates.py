"""Renders by the reference implementation, byte for byte."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.prompt.conversation import Conversation, Tool, ToolCall, Turn
from hearthd.prompt.gochat import GoTemplate, collate, go_template, system_of
from hearthd.prompt.gotags import thinking_tags, tool_tag
from hearthd.prompt.gotemplate.errors import TemplateError

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")


# the records disagree: for one and the same template an older version wrote JSON (tools_templates), the newest writes
# Go's form of a struct (oracle). Prompts are made the older way; the newer one is reproduced when it is asked for.
SHOWS_A_FUNCTION = re.compile(r"{{-? ?\.Function(\.Parameters)? ?-?}}")


def read(name: str) -> Any:
    path = ROOT / name
    return json.loads(path.read_text()) if path.exists() else []


def cases() -> list[dict[str, Any]]:
    path = ROOT / "oracle" / "render_cases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


FACTS: dict[str, Any] = read("oracle/template_facts.json") or {}


@cache
def inputs() -> dict[str, Any]:
    found: dict[str, Any] = read("oracle/inputs.json")
    return found


def turn(message: dict[str, Any]) -> Turn:
    """A message as the data writes it, with keys in lower case or as Go names."""
    known = {key.lower().replace("_", ""): value for key, value in message.items()}
    calls = [call | call["function"] for call in known.get("toolcalls", ())]
    return Turn(
        role=known["role"],
        content=known.get("content", ""),
        thinking=known.get("thinking", ""),
        tool_calls=tuple(ToolCall(name=c["name"], arguments=c["arguments"], id=c.get("id", "")) for c in calls),
        tool_name=known.get("toolname", ""),
        tool_call_id=known.get("toolcallid", ""),
        images=tuple(known.get("images", ())),
    )


def conversation(messages: list[dict[str, Any]], tools: Any = (), **fields: Any) -> Conversation:
    turns = tuple(turn(message) for message in messages)
    return Conversation(turns=turns, tools=msgspec.convert(tools, tuple[Tool, ...]), **fields)


def given(case: dict[str, Any]) -> Conversation:
    messages = inputs()["messages"].get(case["messages_name"], [])
    think = case["think"] if case["think_set"] else None
    return conversation(
        messages, inputs()["tools"] if case["tools"] else (), think=think, think_level=case["think_level"]
    )


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case["id"]))
def test_render_is_the_recorded_one(case: dict[str, Any]) -> None:
    text = inputs()["templates"][case["template_name"]]
    if wrong := case.get("parse_error") or case.get("exec_error"):
        with pytest.raises(TemplateError) as caught:
            go_template(text).render(given(case))
        assert str(caught.value) == wrong
        return
    template = GoTemplate(text, bare_functions=bool(SHOWS_A_FUNCTION.search(text)))
    if case.get("prompt") and case.get("suffix"):
        assert template.render_insert(case["prompt"], case["suffix"], given(case)) == case["out"]
    else:
        assert template.render(given(case)) == case["out"]


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if "parse_error" not in facts])
def test_names_and_tags_are_the_recorded_ones(name: str) -> None:
    facts = FACTS[name]
    template = GoTemplate(inputs()["templates"][name])
    # the record counts the response that is put at the end of a template without one
    assert template.identifiers | {"response"} == {*facts["vars"], "response"}
    tags = (facts["think_open"], facts["think_close"]) if facts.get("think_open") else None
    assert (tool_tag(template.parsed), thinking_tags(template.parsed)) == (facts["tool_tag"], tags)


@pytest.mark.parametrize(
    ("template", "messages", "want"),
    [
        (text, messages["Messages"], want)
        for _, variants, messages, want in read("template/cases_execute_messages.json")
        for _, text in variants
    ],
)
def test_variants_of_a_template_give_the_same_prompt(template: str, messages: list[dict[str, Any]], want: str) -> None:
    assert GoTemplate(template).render(conversation(messages)) == want


@pytest.mark.parametrize("case", read("template/cases_parse_vars.json"), ids=lambda case: str(case["name"]))
def test_names_in_a_template_are_found(case: dict[str, Any]) -> None:
    found = GoTemplate(case["template"]).identifiers
    assert sorted(found | ({"response"} if "messages" not in found else set())) == case["vars"]


@pytest.mark.parametrize("case", read("template/cases_collate.json"), ids=lambda case: str(case["name"]))
def test_neighbours_are_merged(case: dict[str, Any]) -> None:
    turns = [turn(message) for message in case["msgs"]]
    assert collate(turns) == [turn(message) for message in case["expected"]]
    assert system_of(turns) == case["system"]


def test_suffix_asks_for_what_is_between() -> None:
    recorded = read("template/cases_suffix.json")
    template = GoTemplate(recorded["template"])
    for _, values, want in recorded["cases"]:
        if "Suffix" in values:
            assert template.render_insert(values["Prompt"], values["Suffix"], conversation([])) == want
        else:
            assert template.render(conversation(values["Messages"])) == want


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "tools_templates").glob("*.out"))])
def test_tools_are_written_as_recorded(name: str) -> None:
    folder = ROOT / "tools_templates"
    template = go_template((folder / f"{name}.gotmpl").read_text())
    given = conversation(read("tools_templates/messages.json"), read("tools_templates/tools.json"))
    assert template.render(given) == (folder / f"{name}.out").read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "template" / "testdata").glob("*.gotmpl/*")), ids=lambda p: p.parent.stem
)
def test_built_in_template_writes_what_is_recorded(path: Path) -> None:
    said = {
        "system": "You are a helpful assistant.",
        "user": "Hello, how are you?",
        "assistant": "I'm doing great. How can I help you today?",
    }
    roles = path.name.split("-")
    texts = [said[role] for role in roles]
    if len(roles) > 1:
        texts[-1] = "I'd like to show off how chat templating works!"
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    written = GoTemplate((ROOT / "template" / path.parent.name).read_text()).render(conversation(messages))
    cut = path.parent.stem in ("chatqa", "llama2-chat", "mistral-instruct", "openchat", "vicuna")
    assert (written.removesuffix(" ") if cut else written) == path.read_text()


@pytest.mark.parametrize("case", read("thinking/TestInferThinkingTags.json"), ids=lambda case: str(case["desc"]))
def test_tags_of_thoughts_are_inferred(case: dict[str, Any]) -> None:
    want = (case["wantOpeningTag"], case["wantClosingTag"])
    assert thinking_tags(GoTemplate(case["tmplString"]).parsed) == (want if all(want) else None)


@pytest.mark.parametrize("case", read("tools/tmpl_TestParseTag.json"), ids=lambda case: str(case["name"]))
def test_tag_of_tool_calls_is_inferred(case: dict[str, Any]) -> None:
    assert tool_tag(GoTemplate(case["template"]).parsed) == case["want"]
