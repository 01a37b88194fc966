"""What templates write and what is said of wrong ones; the answers are those of Go's own text/template."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthd.prompt.conversation import Conversation, Tool, ToolCall, Turn
from hearthd.prompt.gochat import GoTemplate
from hearthd.prompt.gotemplate.errors import TemplateError
from hearthd.prompt.gotemplate.lexer import MAX_TOKENS
from hearthd.prompt.gotemplate.parser import MAX_CHARS, MAX_NESTING, MAX_VARIABLES, parse
from hearthd.prompt.gotemplate.values import List, Map

DATA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "go_templates.json").read_text())

# the whole conversation is given at once to a template that names it
NAMES_MESSAGES = "{{if false}}{{.Messages}}{{end}}"


def turn(message: dict[str, Any]) -> Turn:
    calls = [ToolCall(id=call["id"], **call["function"]) for call in message.get("tool_calls", ())]
    return Turn(**{**message, "tool_calls": tuple(calls)})


CHAT = Conversation(
    turns=tuple(turn(message) for message in DATA["messages"]),
    tools=msgspec.convert(DATA["tools"], tuple[Tool, ...]),
    think=True,
    think_level="low",
)


def render(text: str) -> str:
    return GoTemplate(text + NAMES_MESSAGES).render(CHAT)


def refusal(text: str) -> str:
    with pytest.raises(TemplateError) as caught:
        render(text)
    return str(caught.value)


@pytest.mark.parametrize(("text", "want"), DATA["written"])
def test_actions_write_what_go_writes(text: str, want: str) -> None:
    assert render(text) == want


@pytest.mark.parametrize(("text", "want"), DATA["calls"])
def test_functions_give_what_go_gives(text: str, want: str) -> None:
    assert render(text) == want


@pytest.mark.parametrize(("text", "want"), DATA["shown"])
def test_values_are_shown_as_go_shows_them(text: str, want: str) -> None:
    assert GoTemplate(text + NAMES_MESSAGES, bare_functions=True).render(CHAT) == want


@pytest.mark.parametrize("name", [".Function", ".Function.Parameters"])
def test_function_of_a_tool_is_shown_as_json(name: str) -> None:
    shown = render("{{ range .Tools }}{{ %s }}{{ end }}" % name)  # noqa: UP031
    assert shown == render("{{ range .Tools }}{{ json %s }}{{ end }}" % name)  # noqa: UP031
    assert shown.startswith("{")


@pytest.mark.parametrize(("text", "want"), DATA["formatted"])
def test_printf_formats_as_go_does(text: str, want: str) -> None:
    assert render(text) == want


@pytest.mark.parametrize(("text", "sentence"), DATA["mistakes"])
def test_mistake_is_named_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)
    assert (str(caught.value), caught.value.status) == (sentence, 500)


@pytest.mark.parametrize(("text", "sentence"), DATA["failures"])
def test_failed_action_is_named_with_its_place(text: str, sentence: str) -> None:
    assert refusal(text) == sentence


def test_dates_are_those_of_this_place() -> None:
    before = datetime.now().astimezone()
    text = render('{{currentDate}} {{yesterdayDate "2006"}}')
    days = (before, datetime.now().astimezone())
    assert text in {f"{day:%Y-%m-%d} {day - timedelta(days=1):%Y-%m-%d}" for day in days}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{{ .A.B }}{{ $.C }}{{ (index .D 0).E }}{{ index .F 0 }}", {"a", "b", "$", "c", "f"}),
        ("{{ range $i, $x := .List }}{{ $x.Y }}{{ else }}{{ .Z }}{{ end }}", {"list", "$x", "y", "z"}),
        ('{{ define "t" }}{{ .Inner }}{{ end }}{{ template "t" (print .Outer) }}', {"inner", "outer"}),
        ("{{/* .A */}} .B {{ print `.C` }}", set()),
    ],
)
def test_names_are_found_but_behind_parentheses(text: str, names: set[str]) -> None:
    assert parse(text).identifiers == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "x" * (MAX_CHARS + 1),
            f"template: the text has {MAX_CHARS + 1} characters, more than the {MAX_CHARS} allowed",
        ),
        ("{{ .A }}" * MAX_TOKENS, f"template: :1: the text has more than {MAX_TOKENS} words and marks"),
        ("{{ " + "(" * 5000, f"template: :1: blocks and parentheses are nested more than {MAX_NESTING} deep"),
        ("\n{{ if 1 }}" * 500, "template: :102: blocks and parentheses are nested more than"),
        ("{{ if 1 }}" + "{{ else if 1 }}" * 500, "template: :1: blocks and parentheses are nested more than"),
        ('{{ define "a" }}' * 200, "template: :1: unexpected <define> in command"),
        ('{{ block "a" . }}' * 200, "template: :1: blocks and parentheses are nested more than"),
        ("{{ $x := 1 }}" * (MAX_VARIABLES + 1), f"template: :1: more than {MAX_VARIABLES} variables"),
        (f"{{{{ {'9' * 100_000} }}}}", 'template: :1: integer overflow: "9999'),
        (f"{{{{ {'f' * 100_000} }}}}", 'template: :1: function "ffff'),
        ("{{ 1i }}", 'template: :1: complex numbers are not supported: "1i"'),
    ],
    ids=lambda text: text[:20],
)
def test_template_beyond_a_bound_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 1100


def test_template_within_the_bounds_of_nesting_runs() -> None:
    depth = MAX_NESTING - 1
    assert render("{{ if 1 }}" * depth + "x" + "{{ end }}" * depth) == "x"
    assert render("{{ " + "(" * depth + "1" + ")" * depth + " }}") == "1"


MORE_WORK = "the template does more work than a render may: too many loop turns or nested calls"
MORE_TEXT = "the template writes more text than a render may"
DOUBLED = "".join(
    f'{{{{ define "t{n}" }}}}{{{{ template "t{n + 1}" . }}}}{{{{ template "t{n + 1}" . }}}}{{{{ end }}}}'
    for n in range(50)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{ range 10000 }}{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}{{ end }}", MORE_WORK),
        ("{{ range 1000000 }}x{{ end }}", MORE_WORK),
        ("{{ range 1000000000 }}{{ end }}", "range over 1000000000 is more than the 1000000 turns allowed"),
        (f'{DOUBLED}{{{{ define "t50" }}}}{{{{ end }}}}{{{{ template "t0" . }}}}', MORE_WORK),
        ('{{ define "t" }}{{ template "t" . }}{{ end }}{{ template "t" . }}', "templates call each other too deep"),
        ('{{ $x := "ab" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}', MORE_TEXT),
        ("{{ range 30000 }}{{ range 30000 }}" + "x" * 1000 + "{{ end }}{{ end }}", MORE_TEXT),
        ("{{ range 100000 }}{{ json $.Messages }}{{ end }}", MORE_TEXT),
        ('{{ $x := printf "%99999d" 1 }}{{ range 100000 }}{{ $y := js $x }}{{ end }}', MORE_TEXT),
        ('{{ $x := printf "%99999d" 1 }}{{ range 90000 }}{{ $z := eq $x (printf "%99999d" 1) }}{{ end }}', MORE_TEXT),
        ('{{ $x := printf "%99999d" 1 }}{{ range 90000 }}{{ $z := eq $x (slice $x 0) }}{{ end }}', MORE_TEXT),
        ('{{ $x := printf "%99999dé" 1 }}{{ range 90000 }}{{ $z := len $x }}{{ end }}', MORE_WORK),
        ('{{ printf "%99999999999d" 1 }}', "a width or precision of 99999999 is more than 100000"),
        ('{{ printf "%*d" 900000 1 }}', "a width or precision of 900000 is more than 100000"),
        ('{{ printf "%.99999999f" 1.0 }}', "a width or precision of 99999999 is more than 100000"),
    ],
)
def test_work_beyond_a_bound_ends_in_an_error(text: str, sentence: str) -> None:
    assert sentence in refusal(text)


def test_value_that_nests_without_end_is_refused() -> None:
    value: List = List(["x"])
    for _ in range(500):
        value = List([value])
    for text in ("{{ . }}", "{{ json . }}", '{{ printf "%s" . }}', '{{ printf "%9v" . }}'):
        with pytest.raises(TemplateError, match="nested more than"):
            parse(text).execute(value)


@pytest.mark.parametrize("name", ["__class__", "type", "entries", "items", "fields", "encode", "format", "methods"])
def test_nothing_of_a_python_object_can_be_reached(name: str) -> None:
    values = Map({"Text": "x", "List": List([1]), "Map": Map({}), "Number": 1, "Float": 1.5, "Nil": None})
    assert parse(f"{{{{ .{name} }}}}{{{{ .Map.{name} }}}}").execute(values) == "<no value><no value>"
    for field in ("Text", "List", "Number", "Float", "Nil"):
        with pytest.raises(TemplateError, match=rf"{name}"):
            parse(f"{{{{ .{field}.{name} }}}}").execute(values)
    with pytest.raises(TemplateError, match=f"can't evaluate field {name} in type"):
        render(f"{{{{ range .Messages }}}}{{{{ .{name} }}}}{{{{ end }}}}")


@pytest.mark.parametrize("text", ["a\ud800b", "a\udcffb", "\x00", "\U0001f600"])
def test_text_that_is_no_unicode_becomes_replacement_characters(text: str) -> None:
    chat = Conversation(turns=(Turn("user", text),))
    template = GoTemplate(
        "{{ range .Messages }}{{ .Content }}|{{ len .Content }}|{{ json .Content }}|{{ slice .Content 1 }}{{ end }}"
    )
    written = template.render(chat)
    assert written.encode().decode() == written
    assert written.startswith(text.encode("utf-8", "replace").decode().replace("?", "\ufffd") + "|")


def test_cut_characters_are_joined_again() -> None:
    assert render('{{ slice "é" 0 1 }}{{ slice "é" 1 }}') == "é"
    assert render('{{ print (slice "é" 0 1) (slice "é" 1) | len }} {{ slice "aé" 0 2 }}!') == "2 a\ufffd!"


PIECES = st.sampled_from([
    "{{", "}}", "{{- ", " -}}", " ", "\n", "if", "range", "with", "else", "end", "define", "template", "block", "break",
    "continue", '"t"', ".Messages", ".System", ".", "$", "$x", ":=", "=", ",", "|", "(", ")", "1", "-2", "1.5", "nil",
    "true", "print", "printf", '"%d"', "eq", "len", "index", "slice", "json", "text", "'c'", "/*", "*/", "`r`",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_any_text_is_rendered_or_refused(pieces: list[str]) -> None:
    try:
        text = render(" ".join(pieces))
    except TemplateError as error:
        assert str(error)
    else:
        assert isinstance(text, str)
