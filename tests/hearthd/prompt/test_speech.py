from __future__ import annotations

import pytest

from hearthd.prompt.conversation import Tool, ToolFunction
from hearthd.prompt.speech import AnswerParser, Part, Speech, of_go, of_jinja, opens_thinking, tool_parser
from hearthd.prompt.thinking import Tags
from hearthd.prompt.toolcalls import DIALECTS

TAGS = Tags("<think>", "</think>")
SPEECH = Speech(thinking=TAGS, tools="hermes")
TOOLS = [Tool(function=ToolFunction(name="f"))]
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def answer(
    text: str, tools: list[Tool], *, think: bool, is_open: bool = False, size: int = 4
) -> tuple[str, str, list[str]]:
    parser = AnswerParser(SPEECH, tools, think=think, is_open=is_open)
    parts = [parser.feed(text[at : at + size]) for at in range(0, len(text), size)] + [parser.flush()]
    names = [call.name for part in parts for call in part.calls]
    return "".join(part.thinking for part in parts), "".join(part.content for part in parts), names


def test_thoughts_content_and_calls_are_told_apart() -> None:
    assert answer(f"<think>hm</think>\nso {CALL}", TOOLS, think=True) == ("hm", "so ", ["f"])


def test_a_call_within_the_thoughts_is_a_thought() -> None:
    assert answer(f"<think>{CALL}</think>no", TOOLS, think=True) == (CALL, "no", [])


def test_without_tools_a_call_is_content() -> None:
    assert answer(CALL, [], think=True) == ("", CALL, [])


def test_thoughts_that_nobody_asked_for_are_content() -> None:
    text = "<think>hm</think>so"
    assert answer(text, TOOLS, think=False) == ("", text, [])


def test_a_call_is_found_behind_thoughts_that_nobody_asked_for() -> None:
    assert answer(f"<think>hm</think>{CALL}", TOOLS, think=False) == ("", "<think>hm</think>", ["f"])


def test_a_prompt_that_opened_the_thoughts_is_heeded() -> None:
    assert answer(f"hm</think>{CALL}", TOOLS, think=True, is_open=True) == ("hm", "", ["f"])


def test_text_held_by_both_parsers_comes_at_the_end() -> None:
    assert answer("<th", TOOLS, think=True) == ("", "<th", [])
    assert answer("a <tool_", TOOLS, think=True) == ("", "a <tool_", [])


def test_text_without_marks_passes_at_once() -> None:
    parser = AnswerParser(Speech(), TOOLS, think=True, is_open=False)
    assert parser.feed("<think>") == Part(content="<think>")
    assert parser.flush() == Part()


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|assistant|><think>", True),
        ("<|assistant|><think>\n", True),
        ("<|assistant|>", False),
        ("<think>\n\n</think>\n\n", False),
    ],
)
def test_a_prompt_s_end_tells_whether_thoughts_are_open(prompt: str, is_open: bool) -> None:
    assert opens_thinking(prompt, TAGS) is is_open


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("{% if tools %}<tools>…</tools> <tool_call>{{ call | tojson }}</tool_call>", "hermes"),
        ("{% if tools %}<tool_call>\n<function=example>\n<parameter=a>", "qwen_xml"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS] [", "mistral"),
        ("{% if tools is defined %}<｜tool▁calls▁begin｜>", "deepseek"),
        ("{{ tools }}<|START_HEADER|> Write 'Action:' ```json", "command_r"),
        ("{{ tools }}<|START_ACTION|>", "command_r"),
        ("{{ tools }} functools[", "firefunction"),
        ("{{ tools }} <toolcall>", "nemotron"),
        ("{{ tools }} <TOOLCALL>", "nemotron"),
        ("{{ tools }} <|tool_call|>", "granite"),
        ("<|tool|>{{ tools }}<|/tool|> <|tool_call|>", "phi4"),
        ('{{ tools }} {\n  "tool_calls": [', "xlam"),
        ("{{ tools }} <|start_header_id|>ipython", "llama3"),
        ("{{ tools }} <start_of_turn>", "tagged"),
        ("<|im_start|> {{ messages }}", ""),
        ("{{ message.tool_calls }} <｜tool▁calls▁begin｜>", "deepseek"),
    ],
)
def test_a_jinja_template_s_marks_choose_the_dialect(text: str, dialect: str) -> None:
    speech = of_jinja(text)
    assert (speech.tools, speech.thinking) == (dialect, None)
    assert tool_parser(speech, TOOLS) is not None or dialect == ""


def test_a_jinja_template_with_a_closing_tag_is_of_a_thinking_model() -> None:
    speech = of_jinja("{% set content = content.split('</think>')[-1] %}")
    assert speech == Speech(thinking=TAGS, visible=("<think>", "</think>"))


def test_marks_that_may_be_special_tokens_stay_visible() -> None:
    visible = of_jinja("{{ tools }}<tool_call> <think></think>").visible
    assert set(visible) == {"<tool_call>", "</tool_call>", "<think>", "</think>"}


def test_a_go_template_with_unknown_marks_uses_its_tag() -> None:
    speech = of_go("{{ if .ToolCalls }}<go>{{ .ToolCalls }}{{ end }}", ("[", "]"), "<go>")
    assert speech == Speech(thinking=Tags("[", "]"), tools="tagged", tag="<go>", visible=("<go>", "[", "]"))


def test_a_bracket_tag_is_no_special_token() -> None:
    assert of_go("{{ .Tools }}", None, "{") == Speech(tools="tagged", tag="{")


def test_a_go_template_with_known_marks_uses_their_dialect() -> None:
    assert of_go("{{ .Tools }}<tool_call>", None, "<tool_call>").tools == "hermes"


def test_a_go_template_without_tools_has_no_dialect() -> None:
    assert of_go("{{ .Prompt }}", ("", ""), "{") == Speech()


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_of_the_table_makes_a_parser(name: str) -> None:
    parser = tool_parser(Speech(tools=name, tag="<go>"), TOOLS)
    assert parser is not None
    assert parser.feed("plain words.") == ("plain words.", [])
    assert parser.flush() == ("", [])
