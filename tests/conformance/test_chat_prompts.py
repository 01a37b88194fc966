"""The published cases of conversations that must fit a window, where they are at hand."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hearthd.prompt.conversation import Conversation, Turn
from hearthd.prompt.images import marked
from hearthd.prompt.render import go_chat
from hearthd.prompt.truncate import fit

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared/conformance"))
TEMPLATE = (
    "{{- if .System }}{{ .System }} {{ end }}{{- if .Prompt }}{{ .Prompt }} {{ end }}"
    "{{- if .Response }}{{ .Response }} {{ end }}"
)
TOKENS_OF_AN_IMAGE = 768

# what the old release did otherwise than all later ones: a blank behind the mark of an image, and no prompt at all
# for a conversation that says nothing, where its template is rendered now
OLD_MARK = re.compile(r"(\[img-\d+\]) ")
SAYS_NOTHING = {"empty list": " ", "empty prompt": "[INST]  [/INST] "}


def cases(name: str) -> list[Any]:
    path = ROOT / name
    return json.loads(path.read_text()) if path.is_file() else []


def turns(messages: list[dict[str, Any]]) -> list[Turn]:
    return [Turn(m["Role"], m.get("Content", ""), images=tuple(m.get("Images", ()))) for m in messages]


def kept(messages: list[Turn], template: str, limit: int) -> list[Turn]:
    async def count(some: Sequence[Turn]) -> int:
        return len(prompt(some, template).split()) + TOKENS_OF_AN_IMAGE * sum(len(turn.images) for turn in some)

    return asyncio.run(fit(messages, count, limit))


def prompt(some: Sequence[Turn], template: str) -> str:
    return go_chat(template).render(Conversation(turns=tuple(marked(some))))


needs_data = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")


@needs_data
@pytest.mark.parametrize("case", cases("chatprompt/TestChatPrompt.json"), ids=lambda case: case["name"])
def test_conversation_is_cut_to_the_window_as_recorded(case: Any) -> None:
    messages = turns(case["msgs"])
    some = kept(messages, TEMPLATE, case["limit"]) if case["truncate"] else messages
    assert prompt(some, TEMPLATE) == case["expect"]["prompt"]
    assert [image for turn in some for image in turn.images] == case["expect"].get("images", [])


@needs_data
@pytest.mark.parametrize("case", cases("old_0.1.44/TestChatPrompt.json"), ids=lambda case: case["name"])
def test_conversation_of_an_old_client_is_cut_as_recorded(case: Any) -> None:
    messages = turns(case["messages"])
    if case["name"] in SAYS_NOTHING:
        assert (case["want"], prompt(messages, case["template"])) == ("", SAYS_NOTHING[case["name"]])
        return
    some = kept(messages, case["template"], case["window"])
    assert prompt(some, case["template"]) == OLD_MARK.sub(r"\1", case["want"])


@needs_data
@pytest.mark.parametrize("case", cases("old_0.1.44/TestPrompt.json"), ids=lambda case: case["name"])
def test_template_of_the_old_kind_renders_as_recorded(case: Any) -> None:
    said = [Turn("system", case["system"]), Turn("user", case["prompt"]), Turn("assistant", case.get("response", ""))]
    text = prompt([turn for turn in said if turn.content], case["template"])
    if case["name"] == "nocut":  # an answer that is complete: the mark behind it is written
        text = prompt([*said, Turn("user", "")], case["template"])
        assert text.startswith(case["want"])
        return
    assert text == case["want"]
