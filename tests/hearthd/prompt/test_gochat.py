from __future__ import annotations

import pytest

from hearthd.prompt.conversation import Conversation, Tool, ToolCall, ToolFunction, ToolParameters, ToolProperty, Turn
from hearthd.prompt.gochat import GoTemplate, collate, go_template, system_of
from hearthd.prompt.gotemplate.errors import TemplateError

CHATML = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}</>{{ end }}<assistant>"
EXCHANGE = "{{ if .System }}S:{{ .System }} {{ end }}{{ if .Prompt }}U:{{ .Prompt }} {{ end }}A:{{ .Response }}</>"


def chat(*turns: tuple[str, str]) -> Conversation:
    return Conversation(turns=tuple(Turn(role, text) for role, text in turns))


def test_messages_come_at_once_with_neighbours_of_a_role_merged() -> None:
    given = chat(("system", "a"), ("system", "b"), ("user", "c"), ("user", "d"), ("tool", "1"), ("tool", "2"))
    written = GoTemplate("[{{ .System }}]" + CHATML).render(given)
    assert written == "[a\n\nb]<system>a\n\nb</><user>c\n\nd</><tool>1</><tool>2</><assistant>"


def test_system_texts_far_apart_are_joined_at_the_front() -> None:
    given = chat(("system", "a"), ("user", "b"), ("system", "c"))
    assert GoTemplate("[{{ .System }}]{{ len .Messages }}").render(given) == "[a\n\nc]3"


@pytest.mark.parametrize(
    ("turns", "want"),
    [
        ([], "A:"),
        ([("user", "q")], "U:q A:"),
        ([("system", "s"), ("user", "q")], "S:s U:q A:"),
        ([("user", "q"), ("assistant", "a"), ("user", "r")], "U:q A:a</>U:r A:"),
        ([("user", "q"), ("assistant", "a")], "U:q A:a"),
        ([("assistant", "a"), ("user", "q")], "A:a</>U:q A:"),
        ([("user", "q"), ("system", "s"), ("user", "r")], "U:q A:</>S:s U:r A:"),
        (
            [("system", "s"), ("user", "q"), ("assistant", "a"), ("system", "t"), ("user", "r")],
            "S:s U:q A:a</>S:t U:r A:",
        ),
        ([("user", "q"), ("tool", "18"), ("control", "x"), ("user", "r")], "U:r A:"),
    ],
)
def test_template_without_messages_is_rendered_for_each_exchange_and_left_open_at_the_end(
    turns: list[tuple[str, str]], want: str
) -> None:
    assert GoTemplate(EXCHANGE).render(chat(*turns)) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{{ .Prompt }}", "q"),
        ("{{ .Prompt }}|{{ .Response }}|", "q|"),
        ("{{ if .Prompt }}[{{ .Response }}]{{ .Prompt }}{{ end }}tail", "["),
        ("{{ if .Response }}x{{ .Response }}y{{ else }}z{{ end }}tail{{ .Prompt }}", ""),
        ("{{ with .Prompt }}{{ . }}{{ else }}{{ $.Response }}{{ end }}tail", "qtail"),
        ("{{ .Prompt }}{{ print .Prompt .Response .System }}tail", "qq"),
        ("{{ .Prompt }}{{ print (print .Response) }}tail", "q"),
        ("{{ .Prompt }}{{ .Response | print }}tail", "q"),
        ('{{ if .Prompt }}{{ template "t" .Prompt }}{{ end }}', None),
        ('{{ define "t" }}[{{ . }}]{{ end }}{{ template "t" .Prompt }}{{ .Response }}', None),
        ("{{ json .Prompt }}{{ .Response }}", None),
        ("{{ .Gone.Further }}{{ .Prompt }}", "<no value>q"),
    ],
)
def test_last_render_ends_with_the_response(text: str, want: str | None) -> None:
    given = chat(("user", "q"))
    if want is None:  # other templates and upstream's functions are not known in it
        with pytest.raises(TemplateError, match=r"not (a )?defined"):
            GoTemplate(text).render(given)
    else:
        assert GoTemplate(text).render(given) == want


def test_whole_render_knows_other_templates_and_functions() -> None:
    text = (
        '{{ define "t" }}[{{ . }}]{{ end }}{{ if .Response }}{{ template "t" (json .Prompt) }}{{ end }}{{ .Response }}!'
    )
    given = chat(("user", "<q>"), ("assistant", "a"), ("user", "r"))
    assert GoTemplate(text).render(given) == '["\\u003cq\\u003e"]a!'


def test_names_behind_parentheses_do_not_count_as_messages() -> None:
    template = GoTemplate("{{ (index .Messages 0).Content }}")
    assert not template.takes_messages
    with pytest.raises(TemplateError, match="error calling index: index of untyped nil"):
        template.render(chat(("user", "q")))


def test_insert_is_given_what_stands_before_and_behind() -> None:
    template = GoTemplate("<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ .System }}{{ .Think }}")
    given = Conversation(turns=(Turn("system", "s"),), think=True)
    assert template.render_insert("a(", ")", given) == "<P>a(<S>)<M><no value>true"


@pytest.mark.parametrize(
    ("think", "level", "want"),
    [
        (None, "", "false false "),
        (False, "", "false true "),
        (True, "", "true true "),
        (True, "high", "true true high"),
    ],
)
def test_thinking_is_told_with_whether_it_was_asked_for(think: bool | None, level: str, want: str) -> None:
    names = "{{ .Think }} {{ .IsThinkSet }} {{ .ThinkLevel }}"
    given = Conversation(turns=(Turn("user", "q"),), think=think, think_level=level)
    assert GoTemplate(names + "{{ if .Messages }}{{ end }}").render(given) == want
    assert GoTemplate(names).render(given) == want


def test_turns_bring_thoughts_images_calls_and_results() -> None:
    call = ToolCall(name="f", arguments={"z": 1, "a": "<>"}, id="c1", index=2)
    given = Conversation(
        turns=(
            Turn("user", "[img-0]look", images=("aGk=", "no base64")),
            Turn("assistant", thinking="why", tool_calls=(call,)),
            Turn("tool", "18", tool_name="f", tool_call_id="c1"),
        )
    )
    text = (
        "{{ range .Messages }}{{ .Content }} {{ .Images }} {{ len .Images }} {{ .Thinking }} "
        "{{ .ToolName }} {{ .ToolCallID }}{{ range .ToolCalls }}{{ .ID }} {{ .Function.Index }} {{ .Function.Name }} "
        "{{ .Function.Arguments }}{{ end }};{{ end }}"
    )
    calls = r'c1 2 f {"a":"\u003c\u003e","z":1}'
    assert GoTemplate(text).render(given) == f"[img-0]look [[104 105] []] 2   ; [] 0 why  {calls};18 [] 0  f c1;"


def test_tools_print_as_json_with_inner_properties_in_the_requests_order() -> None:
    inner = {"z": ToolProperty(type="string"), "a": ToolProperty(type=["integer", "null"], enum=[1, None])}
    outer = {"z": ToolProperty(type="object", properties=inner), "a": ToolProperty(items={"type": "x", "b": 10**30})}
    parameters = ToolParameters(type="object", properties=outer, required=["z"], defs={"d": 1})
    tool = Tool(type="function", function=ToolFunction(name="f", parameters=parameters))
    given = Conversation(turns=(Turn("user", "q"),), tools=(tool,))
    assert GoTemplate("{{ if .Messages }}{{ .Tools }}{{ end }}").render(given) == (
        '[{"type":"function","function":{"name":"f","description":"","parameters":{"type":"object","$defs":{"d":1},'
        '"required":["z"],"properties":{"a":{"items":{"b":1e+30,"type":"x"}},"z":{"type":"object","properties":'
        '{"z":{"type":"string"},"a":{"type":["integer","null"],"enum":[1,null]}}}}}}}]'
    )


def test_no_tools_are_null() -> None:
    assert GoTemplate("{{ .Tools }}{{ json .Tools }}{{ len .Messages }}").render(chat(("user", "q"))) == "nullnull1"


def test_arguments_too_large_for_a_number_are_written_all_the_same() -> None:
    call = ToolCall(name="f", arguments={"n": 10**400})
    given = Conversation(turns=(Turn("assistant", tool_calls=(call,)),))
    text = "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
    assert GoTemplate(text).render(given) == '{"n":1.7976931348623157e+308}'


@pytest.mark.parametrize("depth", [150, 2000])
def test_arguments_nested_too_deep_are_refused(depth: int) -> None:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    call = ToolCall(name="f", arguments=value)
    given = Conversation(turns=(Turn("assistant", tool_calls=(call,)),))
    with pytest.raises(TemplateError, match="nested"):
        GoTemplate("{{ range .Messages }}{{ json .ToolCalls }}{{ end }}").render(given)


def test_parsed_templates_are_kept_and_failures_are_not() -> None:
    assert go_template(CHATML) is go_template(CHATML)
    for _ in range(2):
        with pytest.raises(TemplateError, match="unclosed action"):
            go_template("{{ .Prompt")


def test_template_renders_again_after_an_error() -> None:
    template = GoTemplate("{{ range .Messages }}{{ if eq .Role `bad` }}{{ .Gone }}{{ end }}{{ .Content }}{{ end }}")
    with pytest.raises(TemplateError, match="can't evaluate field Gone in type"):
        template.render(chat(("user", "x"), ("bad", "y")))
    assert template.render(chat(("user", "x"))) == "x"


def test_long_conversation_is_rendered_whole() -> None:
    turns = [(("user", "assistant")[at % 2], f"m{at} ") for at in range(20_001)]
    written = GoTemplate(
        "{{ range $i, $m := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}!{{ end }}{{ .Content }}{{ end }}"
    )
    assert written.render(chat(*turns)).endswith("m19999 !m20000 ")
    assert GoTemplate(EXCHANGE).render(chat(*turns)).endswith("A:m19999 </>U:m20000  A:")


def test_conversation_of_many_characters_may_be_written_whole() -> None:
    text = "x" * (20 << 20)
    assert len(GoTemplate(CHATML).render(chat(("user", text)))) == len(text) + len("<user></><assistant>")


def test_collation_keeps_what_it_is_given() -> None:
    turns = [Turn("user", "a", images=("aGk=",)), Turn("user", "b")]
    assert collate(turns) == [Turn("user", "a\n\nb", images=("aGk=",))]
    assert turns[0].content == "a"
    assert system_of(turns) == ""
