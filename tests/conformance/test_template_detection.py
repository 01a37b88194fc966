from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hearthd.prompt.conversation import Conversation, Turn
from hearthd.prompt.gochat import GoTemplate
from hearthd.registry.detect import detect
from hearthd.registry.families import FAMILIES, Family

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance")) / "template"

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")

ANSWERED = [("user", "Hello, how are you?"), ("assistant", "I'm doing great. How can I help you today?")]
CHATS = {
    "user": ANSWERED[:1],
    "user-assistant-user": [*ANSWERED, ("user", "I'd like to show off how chat templating works!")],
}
CHATS["system-user-assistant-user"] = [("system", "You are a helpful assistant."), *CHATS["user-assistant-user"]]

# of these the recorded text lacks one blank at its end
BLANK_CUT = ("chatqa", "llama2-chat", "mistral-instruct", "openchat", "vicuna")

# the recorded ones are another format's, or lack the format's own name for the assistant
OWN_STOPS = ("mistral-instruct", "falcon-instruct")


def rendered(template: str, chat: str) -> str:
    turns = tuple(Turn(role, text) for role, text in CHATS[chat])
    return GoTemplate(template).render(Conversation(turns=turns))


def published() -> list[tuple[str, str]]:
    """Expected names and Jinja texts."""
    path = ROOT / "testdata" / "templates.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [pair for line in lines for pair in json.loads(line).items()]


@pytest.mark.parametrize(("name", "template"), published())
@pytest.mark.parametrize(("bos", "eos"), [("<s>", "</s>"), ("", ""), ("<|begin|>", "<|im_end|>")])
def test_published_template_is_detected_by_its_name(name: str, template: str, bos: str, eos: str) -> None:
    family = detect(template, bos, eos)
    assert family is not None
    assert family.name == name


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", [path.name.removesuffix(".gotmpl") for path in (ROOT / "testdata").glob("*.gotmpl")])
def test_family_writes_what_is_recorded(name: str, chat: str) -> None:
    (family,) = (family for family in FAMILIES if family.name == name)
    recorded = (ROOT / "testdata" / f"{name}.gotmpl" / chat).read_text()
    written = rendered(family.template, chat)
    assert (written.removesuffix(" ") if name in BLANK_CUT else written) == recorded


# the recorded one ends the last turn twice, as no checkpoint does
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name != "command-r"], ids=lambda f: f.name)
def test_family_writes_what_the_template_of_its_name_does(family: Family, chat: str) -> None:
    assert rendered(family.template, chat) == rendered((ROOT / f"{family.name}.gotmpl").read_text(), chat)


@pytest.mark.parametrize("family", [family.name for family in FAMILIES if family.name not in OWN_STOPS])
def test_stop_texts_are_those_recorded(family: str) -> None:
    (known,) = (known for known in FAMILIES if known.name == family)
    recorded = json.loads((ROOT / f"{family}.json").read_text())
    assert {"stop": list(known.stop), **known.parameters} == recorded
