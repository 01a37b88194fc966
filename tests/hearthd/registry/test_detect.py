from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.registry.detect import MAX_TEMPLATE_CHARS, detect
from hearthd.registry.families import FAMILIES, Family
from tests.tiny import CHAT_TEMPLATE

TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def chat(turn: str = TURN, before: str = "", after: str = ASKS) -> str:
    return f"{before}{{% for message in messages %}}{turn}{{% endfor %}}{after}"


def name_of(template: str, bos: str = "", eos: str = "") -> str | None:
    family = detect(template, bos, eos)
    return family.name if family else None


def jinja_of(family: Family) -> str:
    """The family's format as a checkpoint would write it."""
    marks = {role: (repr(turn.opening), repr(turn.closing)) for role, turn in family.turns.items()}
    cases = [
        f"{{%- if message.role == '{role}' %}}{{{{ {before} + message.content + {after} }}}}{{%- endif %}}"
        for role, (before, after) in marks.items()
    ]
    if family.system_in_user:
        (before, after), (opening, closing) = marks["system"], marks["user"]
        held = (
            f"({before} + messages[0].content + {after} if loop.index0 == 1 and messages[0].role == 'system' else '')"
        )
        said = f"{{{{ {opening} + {held} + message.content + {closing} }}}}"
        cases[0], cases[1] = "", f"{{%- if message.role == 'user' %}}{said}{{%- endif %}}"
    return chat("".join(cases), after=f"{{{{ {family.answer_mark!r} }}}}")


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.name != "gemma-instruct"], ids=lambda f: f.name
)
def test_family_is_told_from_all_others_by_its_own_format(family: Family) -> None:
    assert name_of(jinja_of(family)) == family.name


def test_gemma_generations_are_told_apart_by_the_system_text() -> None:
    (first,) = (family for family in FAMILIES if family.name == "gemma-instruct")
    template = jinja_of(first)
    assert name_of(template) == "gemma3-instruct"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    assert name_of(refusing + template) == "gemma-instruct"


@pytest.mark.parametrize(
    "template",
    [
        chat(),
        chat(before="{{ bos_token }}"),
        chat(after="{{ '<|im_start|>assistant' }}"),
        chat(before="{{ 'A default text.' }}"),
        chat(TURN.replace("'<|im_end|>\n'", "eos_token + '\n'")),
        chat("{% if message.role != 'system' %}" + TURN + "{% endif %}"),
        chat("{% if message.role == 'system' %}{{ message.content }}{% else %}" + TURN + "{% endif %}"),
        CHAT_TEMPLATE,
    ],
)
def test_what_may_differ_does_not_hide_the_family(template: str) -> None:
    assert name_of(template, "<|im_start|>", "<|im_end|>") == "chatml"


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no turns at all",
        chat(TURN.replace("im_start", "im_begin"), after=ASKS.replace("im_start", "im_begin")),
        chat(TURN.replace("'\n'", "'<|im_sep|>'")),
        chat(TURN.replace("<|im_end|>", "")),
        chat(TURN.replace("message['role']", "message['role'] | replace('user', 'human')")),
        chat(TURN.replace("message['content']", "message['content'] | upper")),
        chat(TURN + TURN),
        chat(after=""),
        chat(after=ASKS + "{{ 'Sure' }}"),
        chat("{% if message.role == 'system' %}<rules>{{ message.content }}</rules>{% else %}" + TURN + "{% endif %}"),
        chat("{% if loop.last %}" + TURN + "{% endif %}"),
    ],
)
def test_what_renders_differently_is_not_detected(template: str) -> None:
    assert name_of(template) is None


@pytest.mark.parametrize("word", ["tools", "tool_call", "<think>", "reasoning_content", "documents"])
def test_template_that_offers_more_than_chat_keeps_to_itself(word: str) -> None:
    assert name_of(chat(before=f"{{% if {word.strip('<>')} %}}{word}{{% endif %}}")) is None


@pytest.mark.parametrize(
    "template",
    [
        "{% for",
        "{{ raise_exception('no') }}",
        "{{ 1 // 0 }}",
        "{{ messages[99].content.x.y }}",
        "{{ ''.__class__.__mro__ }}" + chat(),
        chat("{% for i in range(10**6) %}{% for j in range(10**6) %}x{% endfor %}{% endfor %}"),
        "{{ 'x' * 10**9 }}" + chat(),
        "{#" + "x" * MAX_TEMPLATE_CHARS + "#}" + chat(),
    ],
    ids=lambda template: template[:20],
)
def test_hostile_template_is_just_not_detected(template: str) -> None:
    assert name_of(template) is None


def test_template_that_refuses_a_system_text_is_detected() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    assert name_of(refusing + chat()) == "chatml"


def test_starter_model_writes_chatml(smollm2_gguf: Path) -> None:
    fields = pytest.importorskip("gguf").GGUFReader(smollm2_gguf).fields
    assert name_of(fields["tokenizer.chat_template"].contents()) == "chatml"
