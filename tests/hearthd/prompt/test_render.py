from __future__ import annotations

from typing import Any

import pytest

from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Conversation, Tool, ToolCall, ToolFunction, Turn
from hearthd.prompt.render import Specials, go_chat, jinja_chat

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
NO_SPECIALS = Specials()


def render(turns: list[Turn], template: str, specials: Specials = NO_SPECIALS, **fields: Any) -> str:
    return jinja_chat(template, specials).render(Conversation(turns=tuple(turns), **fields))


def test_a_conversation_ends_where_the_answer_begins() -> None:
    text = render([Turn("system", "be brief"), Turn("user", "hi")], CHATML)
    assert text == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_last_assistant_message_is_left_open() -> None:
    text = render([Turn("user", "hi"), Turn("assistant", "Well,")], CHATML)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell,"


def test_template_syntax_in_a_message_is_only_text() -> None:
    assert "{{ 7 * 7 }}" in render([Turn("user", "{{ 7 * 7 }}")], CHATML)


def test_special_tokens_are_available_to_the_template() -> None:
    assert render([Turn("user", "hi")], WITH_BOS, Specials(bos="<s>", eos="</s>")) == "<s>hi</s>"


def test_bos_is_left_to_a_tokenizer_that_adds_it() -> None:
    assert render([Turn("user", "hi")], WITH_BOS, Specials(bos="<s>", eos="</s>", adds_bos=True)) == "hi</s>"


def test_tools_and_calls_are_given_as_published_templates_want_them() -> None:
    tool = Tool(type="function", function=ToolFunction(name="weather", description="d"))
    call = ToolCall(name="weather", arguments={"city": "Oslo"}, id="call_1")
    turns = [Turn("assistant", "", tool_calls=(call,)), Turn("tool", "3", tool_name="weather", tool_call_id="call_1")]
    template = (
        "{{ tools[0].function.name }} {{ tools | tojson }}|"
        "{{ messages[0].tool_calls[0].function.arguments.city }} {{ messages[0].tool_calls[0].id }}|"
        "{{ messages[1].name }} {{ messages[1].tool_call_id }} {{ messages[1].content }}"
    )
    assert render(turns, template, tools=(tool,)) == (
        'weather [{"type": "function", "function": {"name": "weather", "description": "d", '
        '"parameters": {"type": "object", "properties": {}}}}]'
        "|Oslo call_1|weather call_1 3"
    )


def test_without_tools_the_template_sees_none() -> None:
    assert render([Turn("user", "hi")], "{{ tools is none }} {{ messages[0].tool_calls is defined }}") == "True False"


@pytest.mark.parametrize(("think", "said"), [(None, "unset"), (True, "True"), (False, "False")])
def test_thinking_is_switched_only_where_the_request_says(think: bool | None, said: str) -> None:
    template = "{% if enable_thinking is defined %}{{ enable_thinking }}{% else %}unset{% endif %}"
    assert render([Turn("user", "hi")], template, think=think) == said


def test_level_of_thinking_is_given() -> None:
    assert render([], "{{ reasoning_effort }}", think=True, think_level="low") == "low"


def test_call_without_an_answer_is_not_left_open() -> None:
    turns = [Turn("assistant", "x", tool_calls=(ToolCall(name="f"),))]
    assert render(turns, CHATML).endswith("x<|im_end|>\n<|im_start|>assistant\n")


def test_suffix_is_refused_where_the_template_has_no_place_for_it() -> None:
    with pytest.raises(BadRequest, match="suffix"):
        jinja_chat(CHATML, NO_SPECIALS).render_insert("a", "b", Conversation(turns=()))


def test_go_template_is_rendered_in_its_own_language() -> None:
    turns = (Turn("system", "s"), Turn("user", "hi"))
    assert go_chat("{{ .System }}: {{ .Prompt }}!").render(Conversation(turns=turns)) == "s: hi!"


def test_plain_template_joins_what_was_said() -> None:
    turns = [Turn("system", "s"), Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c"), Turn("user", "d")]
    assert go_chat("{{ .Prompt }}").render(Conversation(turns=tuple(turns))) == "a\n\nbcd"


def test_go_template_tells_how_the_model_speaks() -> None:
    text = (
        "{{ range .Messages }}{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{{ . }}{{ end }}{{ end }}"
        "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"
    )
    speech = go_chat(text).speech
    assert speech.thinking is not None
    assert (speech.thinking.opening, speech.tools) == ("<think>", "hermes")
